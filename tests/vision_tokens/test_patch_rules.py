"""Counts that follow from the grid, and settings that no method can use."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.patch_rules import (
    budget_counts,
    check_grid,
    check_selection,
    fewest_tokens,
    largest_level,
    splittable_cells,
)


@pytest.mark.parametrize(
    ("levels", "alpha", "budget", "actual"),
    [(2, 0.2, 39, 49), (2, 0.3, 59, 58), (2, 0.5, 98, 97), (3, 0.2, 39, 37), (3, 0.3, 59, 58), (3, 0.5, 98, 97)],
)
def test_specified_budgets_of_a_14_by_14_grid(levels: int, alpha: float, budget: int, actual: int) -> None:
    counts = budget_counts(14, 14, levels, alpha)
    base_tokens = {2: 49, 3: 22}[levels]
    assert counts == {
        "base_tokens": base_tokens,
        "budget": budget,
        "k": (actual - base_tokens) // 3,
        "actual": actual,
    }


@pytest.mark.parametrize(("side", "fewest"), [(14, (196, 49, 22)), (16, (256, 64, 16)), (8, (64, 16, 4))])
def test_specified_fewest_tokens(side: int, fewest: tuple[int, ...]) -> None:
    assert tuple(fewest_tokens(side, side, levels) for levels in (1, 2, 3)) == fewest


def test_fewest_tokens_are_those_of_covering_greedily_with_the_largest_cells() -> None:
    for rows, columns, levels in np.random.default_rng(0).integers(1, (40, 40, 6), (300, 3)).tolist():
        free = np.ones((rows, columns), dtype=bool)
        cells = 0
        for side in (1 << level for level in reversed(range(levels))):
            for row in range(0, rows - side + 1, side):
                for column in range(0, columns - side + 1, side):
                    if free[row : row + side, column : column + side].all():
                        free[row : row + side, column : column + side] = False
                        cells += 1
        assert fewest_tokens(rows, columns, levels) == cells
        assert splittable_cells(rows, columns, levels) == (rows * columns - cells) // 3


def test_budgets_keep_their_limits() -> None:
    rng = np.random.default_rng(1)
    for rows, columns, levels in rng.integers(1, (40, 40, 6), (2000, 3)).tolist():
        alpha = float(rng.uniform(0, 1)) or 1.0
        counts = budget_counts(rows, columns, levels, alpha)
        assert counts["budget"] == round(alpha * (rows * columns))
        assert counts["base_tokens"] <= counts["actual"] <= max(counts["budget"], counts["base_tokens"])
        assert (rows * columns - counts["actual"]) % 3 == 0
        assert counts["actual"] > counts["budget"] - 3  # no split that fits is left out
        assert budget_counts(rows, columns, levels, 1)["actual"] == rows * columns


def test_the_largest_level_with_cells() -> None:
    assert [largest_level(14, 14, levels) for levels in (1, 2, 3, 4, 5)] == [0, 1, 2, 3, 3]
    assert [largest_level(1, 5, levels) for levels in (1, 3)] == [0, 0]
    assert largest_level(2, 9, 3) == 1


@pytest.mark.parametrize(
    ("method", "alpha", "thresholds", "levels"),
    [
        ("budget", 1, None, 3),
        ("budget", 1e-9, None, 1),
        ("budget", np.float32(0.5), (1.0,), 3),  # thresholds are not this method's
        ("v2", 0, None, 2),
        ("v2", 7.5, None, 9),
        ("v1", None, None, 3),
        ("v1", True, None, 1),  # nor alpha this one's
        ("v1", None, [3], 2),
        ("v1", None, (-1.0, 9.5, np.float64(2)), 4),
        ("v1", None, (), 1),
    ],
)
def test_settings_that_can_be_used(method, alpha, thresholds, levels) -> None:
    assert check_selection(method, alpha, thresholds, levels) is None


@pytest.mark.parametrize(
    ("method", "alpha", "thresholds", "levels", "message"),
    [
        ("v3", 0.5, None, 3, "v1, v2, budget"),
        (None, 0.5, None, 3, "method=None"),
        ("budget", 0.5, None, 0, "levels=0"),
        ("budget", None, None, 3, "alpha=None"),
        ("v2", None, None, 3, "needs a number"),
        ("budget", True, None, 3, "alpha=True"),
        ("v2", False, None, 3, "alpha=False"),
        ("budget", "0.5", None, 3, "alpha='0.5'"),
        ("budget", 0, None, 3, "above 0 and at most 1"),
        ("budget", 1.01, None, 3, "above 0 and at most 1"),
        ("budget", math.nan, None, 3, "alpha=nan"),
        ("v2", -0.1, None, 3, "finite and at least 0"),
        ("v2", math.inf, None, 3, "finite and at least 0"),
        ("v2", math.nan, None, 3, "alpha=nan"),
        ("v1", None, None, 4, "set 3"),
        ("v1", None, (3.0,), 3, "need 2"),
        ("v1", None, (3.0, 2.0), 2, "need 1"),
        ("v1", None, (3.0, math.nan), 3, "finite number of bits"),
        ("v1", None, (3.0, "2"), 3, "finite number of bits"),
        ("v1", None, (3.0, True), 3, "finite number of bits"),
    ],
)
def test_settings_that_cannot_be_used(method, alpha, thresholds, levels, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_selection(method, alpha, thresholds, levels)
    if method == "budget":
        with pytest.raises(ConfigError, match=message):
            budget_counts(4, 4, levels, alpha)


def test_levels_must_halve() -> None:
    assert check_grid([(5, 7), (2, 3), (1, 1), (0, 0)], 2) == (5, 7)
    assert check_grid([(3, 5, 7), (3, 2, 3)], 3) == (5, 7)
    for shapes in ([(5, 7), (3, 3)], [(0, 7)], [(5, 7), (2, 3), (2, 3)]):
        with pytest.raises(ConfigError, match="half the rows"):
            check_grid(shapes, 2)
    with pytest.raises(ConfigError, match="half the rows"):
        check_grid([(2, 5, 7), (3, 2, 3)], 3)
    with pytest.raises(ConfigError, match="needs 2 dimensions"):
        check_grid([(1, 5, 7)], 2)
