from __future__ import annotations

from collections import Counter

import pytest

from maskcap.data.entries import SourceEntry, parse_entries, shares
from maskcap.data.mixture import Mixture
from maskcap.errors import ConfigError

LENGTHS = {"a": 10, "b": 1000}


def entries(**options) -> dict[str, SourceEntry]:
    return {name: SourceEntry(list, **options.get(name, {})) for name in LENGTHS}


def test_weights_default_to_one():
    assert shares(entries(), LENGTHS) == ({"a": 1.0, "b": 1.0}, 1010)
    assert shares(entries(a={"weight": 3}), LENGTHS) == ({"a": 3.0, "b": 1.0}, 1010)


@pytest.mark.parametrize(("temperature", "ratio"), [(1.0, 100.0), (2.0, 10.0), (1e9, 1.0)])
def test_temperature_flattens_the_sizes(temperature, ratio):
    weights, samples = shares(entries(), LENGTHS, temperature)
    assert weights["b"] / weights["a"] == pytest.approx(ratio) and samples == 1010


def test_repeats_go_through_each_source_so_often():
    weights, samples = shares(entries(a={"repeats": 5}), LENGTHS)
    assert samples == 1050
    order = Mixture(LENGTHS, weights, 0, samples).epoch_order(0)
    assert Counter(order[order[:, 0] == 0, 1].tolist()) == dict.fromkeys(range(10), 5)
    assert Counter(order[order[:, 0] == 1, 1].tolist()) == dict.fromkeys(range(1000), 1)


@pytest.mark.parametrize(
    ("options", "temperature", "message"),
    [
        ({"a": {"repeats": 2}, "b": {"weight": 1}}, None, r"repeats, and weights \(b\)"),
        ({"a": {"repeats": 2}}, 2.0, "repeats, and temperature=2.0"),
        ({}, 0.0, "data.temperature=0.0"),
        ({}, float("nan"), "data.temperature=nan"),
    ],
)
def test_wrong_mixtures(options, temperature, message):
    with pytest.raises(ConfigError, match=message):
        shares(entries(**options), LENGTHS, temperature)


def test_wrong_entries():
    with pytest.raises(ConfigError, match="give one of the two"):
        SourceEntry(list, weight=1, repeats=2)
    with pytest.raises(ConfigError, match="repeats=-1"):
        SourceEntry(list, repeats=-1)
    with pytest.raises(ConfigError, match='maybe "weight" or "repeats"'):
        parse_entries({"a": {"source": list, "repeat": 2}}, "data.train")
