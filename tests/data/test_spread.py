from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskcap.data.spread import spread_evenly


def worst(order: list[int], counts: tuple[int, ...]) -> float:
    """How far a stretch of any length, the end going on at the beginning, is from its share of a kind; by counting."""
    total, twice, off = len(order), order * 2, 0.0
    for start, length in itertools.product(range(total), range(1, total + 1)):
        stretch = twice[start : start + length]
        off = max(off, *(abs(stretch.count(i) - length * count / total) for i, count in enumerate(counts)))
    return off


@pytest.mark.parametrize(
    "counts", [(1, 1), (7, 3), (19, 20), (30, 1), (1, 1, 1), (11, 7, 3), (5, 3, 2), (8, 8, 8, 1), (9, 6, 5, 2, 1)]
)
def test_every_stretch_is_mixed_as_the_whole(counts):
    order = spread_evenly(counts)
    assert order.dtype == np.int64 and np.bincount(order, minlength=len(counts)).tolist() == list(counts)
    assert worst(order.tolist(), counts) <= 2 - 1 / (len(counts) - 1) + 1e-9


@pytest.mark.parametrize("kinds", [2, 3, 4, 6])
def test_any_counts(kinds):
    rng = np.random.default_rng(kinds)
    for _ in range(20):
        counts = tuple(int(n) for n in rng.integers(1, 14, kinds))
        assert worst(spread_evenly(counts).tolist(), counts) <= 2 - 1 / (kinds - 1) + 1e-9


def test_shared_factors_repeat_a_pattern():
    assert spread_evenly((6, 3, 3)).tolist() == spread_evenly((2, 1, 1)).tolist() * 3
    assert spread_evenly((4, 4)).tolist() == [0, 1] * 4


def test_kinds_without_a_place_and_nothing_at_all():
    assert spread_evenly((0, 3, 0, 3)).tolist() == [1, 3] * 3
    assert spread_evenly((0, 4)).tolist() == [1] * 4
    assert spread_evenly(()).tolist() == spread_evenly((0, 0)).tolist() == []


def test_large_counts_take_no_memory_beyond_their_places():
    order = spread_evenly((500_001, 500_000))
    assert np.abs(np.cumsum(order == 0) - np.arange(1, len(order) + 1) * 500_001 / 1_000_001).max() <= 0.51


def test_the_kept_order_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        spread_evenly((2, 1))[0] = 5
