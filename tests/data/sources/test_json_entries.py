"""Lists of entries: keys that are told apart, and entries that are none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.sources.json_entries import checked, distinct, keyed, names_in, read_entries
from maskcap.errors import DataError


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "b", 7], ["a", "b", "7"]),
        (["a", "a", "a"], ["a", "a#2", "a#3"]),
        (["a", "a", "a#2"], ["a", "a#2", "a#2#2"]),
        (["a#2", "a", "a", "a"], ["a#2", "a", "a#3", "a#4"]),
        ([1, "1", 1.0], ["1", "1#2", "1.0"]),
        ([], []),
    ],
)
def test_names_are_told_apart(names: list, told: list[str]):
    assert distinct(names) == told


def test_no_two_names_are_ever_the_same():
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = ["a" + "".join(rng.choice(["#2", "#3", ""], rng.integers(3))) for _ in range(rng.integers(1, 12))]
        told = distinct(names)
        assert max(Counter(told).values()) == 1 and all(t.startswith(n) for t, n in zip(told, names, strict=True))
        assert distinct(told) == told


def test_lines_that_are_no_json_keep_their_error_and_their_key(tmp_path: Path):
    path = tmp_path / "told.jsonl"
    path.write_text('{"id": 5, "image": "a.jpg"}\n{image}\n["a.jpg"]\n{"image": 7}\n')
    entries = read_entries(path)
    assert list(names_in(entries, "image")) == ["a.jpg"]
    keys, _, _ = zip(*keyed(entries, "set", path), strict=True)
    assert keys == ("set/told/5", "set/told/1", "set/told/2", "set/told/3")
    assert checked(entries[0], "w", "image", "id") == {"id": 5, "image": "a.jpg"}
    for entry, fields, problem in [
        (entries[1], ("image",), f"{path}, line 2: not valid JSON"),
        (entries[2], ("image", "id"), "w: expected an object with 'image', 'id'"),
        (entries[3], ("image", "id"), "w: expected an object with 'id'"),
    ]:
        with pytest.raises(DataError) as caught:
            checked(entry, "w", *fields)
        assert str(caught.value).startswith(problem)
