"""One-to-one matchings against all of them, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskcap.metrics.assignment import best_pairs


def greatest_sum(gains: np.ndarray) -> float:
    """By every matching of the shorter side."""
    gains = gains if gains.shape[0] <= gains.shape[1] else gains.T
    rows, columns = gains.shape
    return max(sum(gains[range(rows), list(each)]) for each in itertools.permutations(range(columns), rows))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (5, 3), (4, 4), (5, 6)])
def test_no_other_matching_has_more(shape: tuple[int, int], whole: bool):
    rng = np.random.default_rng(sum(shape))
    for _ in range(15):
        gains = rng.integers(-1, 2, shape).astype(float) if whole else rng.normal(size=shape)
        pairs = best_pairs(gains)
        rows, columns = zip(*pairs, strict=True)
        assert len(pairs) == min(shape) == len(set(rows)) == len(set(columns)) and list(rows) == sorted(rows)
        assert sum(gains[pair] for pair in pairs) == pytest.approx(greatest_sum(gains))


def test_the_greedy_choice_is_not_the_best():
    gains = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert best_pairs(gains) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_match(shape: tuple[int, int]):
    assert best_pairs(np.zeros(shape)) == []
