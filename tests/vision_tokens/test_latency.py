"""Latency tables: what they hold, what is wrong with others, and how many crops a target allows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO
from maskcap.vision_tokens.latency import COMPONENTS, LatencyRow, LatencyTable


def table(totals: dict[int, float]) -> LatencyTable:
    rows = [
        LatencyRow(n, 1, n, 144 * (n + 1), 100 * n, dict.fromkeys(COMPONENTS, t / 10), t) for n, t in totals.items()
    ]
    return LatencyTable(MOLMO, True, "a device", "a model", 16, tuple(rows))


TABLE = table({1: 50.0, 2: 60.0, 3: 75.5, 4: 74.0, 6: 100.0})


@pytest.mark.parametrize(
    ("target", "max_crops", "crops"),
    [
        (49.9, 12, 1),  # none: the least
        (50.0, 12, 1),
        (60.0, 12, 2),
        (75.0, 12, 4),  # the most within, though 3 crops are not
        (75.0, 3, 2),
        (1e9, 12, 6),
        (1e9, 5, 4),
        (1e9, 1, 1),
    ],
)
def test_the_most_crops_within_the_target(target: float, max_crops: int, crops: int):
    assert TABLE.crops_within(target, max_crops) == crops


def test_totals_and_the_fastest():
    assert (TABLE.total(3), TABLE.total(5)) == (75.5, None)
    assert table({1: 9.0, 2: 8.0}).fastest.crops == 2


def test_a_saved_table_is_the_same_loaded(tmp_path: Path):
    TABLE.save(tmp_path / "a" / "latency.json")
    assert LatencyTable.load(tmp_path / "a" / "latency.json") == TABLE
    content = json.loads((tmp_path / "a" / "latency.json").read_text())
    assert content["rows"][0]["ms"]["sam_decode"] == 5.0 and content["geometry"]["crop"] == 336


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"latency_table=.*none.json cannot be read .*`maskcap tokens profile`"):
        LatencyTable.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "{", "is not JSON"),
        (lambda c: "[]", "is not a latency table"),
        (lambda c: c | {"format": 2}, "format 2, this version reads 1"),
        (lambda c: {k: v for k, v in c.items() if k != "rows"}, "lacks 'rows'"),
        (lambda c: c | {"rows": []}, "ascending numbers of crops"),
        (lambda c: c | {"rows": c["rows"][::-1]}, "ascending numbers of crops"),
        (lambda c: c | {"rows": [c["rows"][0] | {"total": "soon"}]}, "could not convert"),
        (lambda c: c | {"rows": [c["rows"][0] | {"total": -1}]}, "at least 0"),
        (lambda c: c | {"rows": [c["rows"][0] | {"ms": {"vit": 1}}]}, "lacks 'preprocess'"),
        (lambda c: c | {"geometry": {"crop": 337}}, "is no multiple"),
        (lambda c: c | {"geometry": {"side": 1}}, "is not a latency table"),
    ],
)
def test_what_is_not_a_table_is_named_with_its_file(change, message: str, tmp_path: Path):
    path = tmp_path / "latency.json"
    changed = change(json.loads(json.dumps(TABLE.to_json())))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ConfigError, match="latency.json") as caught:
        LatencyTable.load(path)
    assert message in str(caught.value)
