"""Settings of the three methods of `patch_selection`, and what follows from the grid alone: counts of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal, get_args

from maskcap.errors import ConfigError

Method = Literal["v1", "v2", "budget"]
DEFAULT_THRESHOLDS = (3.0, 2.0)
"""Bits below which `v1` takes a cell of level 1, of level 2."""


def check_selection(method: Method, alpha: float | None, thresholds: Sequence[float] | None, levels: int) -> None:
    """Raise ConfigError for settings that `method` cannot use with so many levels.

    `v1` takes levels − 1 finite thresholds in bits, or None for the first of DEFAULT_THRESHOLDS. `v2` takes a finite
    alpha ≥ 0, `budget` 0 < alpha ≤ 1, whole or not. A method reads no setting of another's, so all may be set at once.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method={method!r}: take one of {', '.join(get_args(Method))}")
    if isinstance(levels, bool) or not isinstance(levels, Integral) or levels < 1:
        raise ConfigError(f"levels={levels!r}: a whole number, at least 1 (the base cells)")
    if method == "v1":
        level_thresholds(thresholds, levels)
        return
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise ConfigError(f"alpha={alpha!r}: method {method} needs a number, for example alpha=0.5")
    if not (0 < alpha <= 1 if method == "budget" else 0 <= alpha < math.inf):
        allowed = "above 0 and at most 1" if method == "budget" else "finite and at least 0"
        raise ConfigError(f"alpha={alpha}: method {method} needs one that is {allowed}")


def level_thresholds(thresholds: Sequence[float] | None, levels: int) -> list[float]:
    """Bits of levels 1 … levels − 1 for `v1`; raises ConfigError as `check_selection` says."""
    if thresholds is None:
        if levels - 1 > len(DEFAULT_THRESHOLDS):
            raise ConfigError(f"levels={levels}: method v1 has default thresholds for 3 at most, set {levels - 1}")
        return list(DEFAULT_THRESHOLDS[: levels - 1])
    if len(thresholds) != levels - 1:
        raise ConfigError(f"thresholds={list(thresholds)}: {levels} levels need {levels - 1}, that of level 1 first")
    if any(isinstance(bits, bool) or not isinstance(bits, Real) or not math.isfinite(bits) for bits in thresholds):
        raise ConfigError(f"thresholds={list(thresholds)}: each is a finite number of bits")
    return [float(bits) for bits in thresholds]


def fewest_tokens(rows: int, columns: int, levels: int) -> int:
    """Cells of a grid of rows × columns base cells when each is as coarse as the grid allows."""
    return rows * columns - 3 * splittable_cells(rows, columns, levels)


def splittable_cells(rows: int, columns: int, levels: int) -> int:
    """Coarse cells of all levels that lie wholly inside a grid of rows × columns base cells."""
    return sum((rows >> level) * (columns >> level) for level in range(1, levels))


def largest_level(rows: int, columns: int, levels: int) -> int:
    """The largest level that has cells in a grid of rows × columns base cells; 0 where no cell can be coarse."""
    return max(level for level in range(levels) if not level or min(rows, columns) >> level)


def budget_counts(rows: int, columns: int, levels: int, alpha: float) -> dict[str, int]:
    """base_tokens, budget, k and actual of method `budget`; see `Selection`.

    budget is alpha × base cells, rounded as Python rounds (halves to even); actual ≤ max(budget, base_tokens). Raises
    ConfigError unless 0 < alpha ≤ 1 and levels ≥ 1.
    """
    check_selection("budget", alpha, None, levels)
    base_tokens = fewest_tokens(rows, columns, levels)
    budget = round(float(alpha) * (rows * columns))
    k = min(max((budget - base_tokens) // 3, 0), splittable_cells(rows, columns, levels))
    return {"base_tokens": base_tokens, "budget": budget, "k": k, "actual": base_tokens + 3 * k}


def check_grid(shapes: Sequence[tuple[int, ...]], dimensions: int) -> tuple[int, int]:
    """Rows and columns of base cells from the shapes of all levels, finest first; the last two dimensions are (h, w).

    Raises ConfigError when there are no cells, for another number of dimensions, or when a level's sides are not half
    of those of the one before, rounded down.
    """
    if len(shapes[0]) != dimensions:
        raise ConfigError(f"levels of shapes {list(shapes)}: each needs {dimensions} dimensions")
    *batch, rows, columns = shapes[0]
    expected = [(*batch, rows >> level, columns >> level) for level in range(len(shapes))]
    if not rows or not columns or list(shapes) != expected:
        raise ConfigError(f"levels of shapes {list(shapes)}: each has half the rows and columns of the one before")
    return rows, columns
