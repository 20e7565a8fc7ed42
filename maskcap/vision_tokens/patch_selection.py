"""Which cells of an image become one token each: small ones where there is detail, large ones where there is little.

A partition is a list of cells (row, column, level) in base cells; a cell of level s is 2^s base cells a side, aligned
to its side and wholly inside the image. Splitting a cell into its four children adds 3 tokens. Three methods:

- `v1`: coarse where the entropy is below the level's threshold in bits; the largest such cell wins.
- `v2`: the same with one threshold, alpha × the mean entropy of the largest level's cells of this image, which a coarse
  cell may reach. A larger alpha makes **fewer** tokens.
- `budget`: as coarse as the grid allows, then the most important cells are split while there are at most
  alpha × base cells. A larger alpha makes **more** tokens. A cell is as important as the highest entropy among itself
  and its descendants, so none comes before its parent; ties go to the coarser cell, then to raster order.

Shapes: B images, h × w cells of a level, K cells of a partition, C cells that can be split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.errors import ConfigError
from maskcap.vision_tokens.patch_rules import (
    DEFAULT_THRESHOLDS,
    Method,
    budget_counts,
    check_grid,
    check_selection,
    fewest_tokens,
    largest_level,
    level_thresholds,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_THRESHOLDS",
    "Method",
    "Selection",
    "budget_counts",
    "cells_of",
    "check_selection",
    "fewest_tokens",
    "level_maps",
    "select_patches",
]


@dataclass(frozen=True, eq=False)
class Selection:
    """The partition of one image.

    cells: int64 (K, 3), (row, column, level) in base cells, raster order of the top left corners. info: base_tokens,
    the fewest that the grid allows, and actual, K. `v2` adds its threshold in bits, None when no cell of the grid can
    be coarse; `budget` adds budget, alpha × base cells, and k, the number of cells that were split.
    """

    cells: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)


def select_patches(
    pyramid: Sequence[np.ndarray],
    method: Method,
    alpha: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> Selection:
    """Partition of an image by the entropies of its cells.

    pyramid: float (h, w) of each level in bits, finest first, as `entropy_pyramid` gives them; coarse levels may be
    empty. alpha, thresholds: see `check_selection`. Raises ConfigError for settings that it refuses, and for a pyramid
    whose sides do not halve or whose entropies are negative or not finite.
    """
    levels = len(pyramid)
    check_selection(method, alpha, thresholds, levels)
    rows, columns = check_grid([level_hw.shape for level_hw in pyramid], 2)
    bits = [np.asarray(level_hw, dtype=np.float64) for level_hw in pyramid]
    if not all(((level_hw >= 0) & (level_hw < np.inf)).all() for level_hw in bits):
        raise ConfigError(f"a pyramid of {rows}×{columns} cells holds bits that are negative or not finite")
    info: dict[str, Any] = {"base_tokens": fewest_tokens(rows, columns, levels)}
    if method == "v1":
        limits = level_thresholds(thresholds, levels)
        coarse = [level_hw < limit for level_hw, limit in zip(bits[1:], limits, strict=True)]
    elif method == "v2":
        assert alpha is not None  # check_selection
        largest = largest_level(rows, columns, levels)
        threshold = float(alpha) * (bits[largest].sum() / bits[largest].size)
        coarse = [level_hw <= threshold for level_hw in bits[1:]]
        info["threshold"] = float(threshold) if largest else None
    else:
        assert alpha is not None
        info = budget_counts(rows, columns, levels, alpha)
        coarse = _unsplit(bits, info["k"])
    cells = cells_of(_paint(rows, columns, coarse))
    return Selection(cells, {**info, "actual": len(cells)})


def cells_of(levels_hw: np.ndarray) -> np.ndarray:
    """The cells of a level map, int64 (K, 3), (row, column, level), raster order of the top left corners.

    levels_hw: any integer (h, w), the level of the cell that covers each base cell. Raises ConfigError when the levels
    do not form aligned cells wholly inside the grid.
    """
    rows, columns = levels_hw.shape
    whole = []
    for level in range(1, int(levels_hw.max(initial=0)) + 1):
        side = 1 << level
        inside_hw = levels_hw[: rows // side * side, : columns // side * side] == level
        whole.append(inside_hw.reshape(rows // side, side, columns // side, side).all(axis=(1, 3)))
    if not np.array_equal(_paint(rows, columns, whole), levels_hw):
        raise ConfigError(f"levels of {rows}×{columns} base cells that form no aligned cells: take those of level_maps")
    side_hw = 1 << levels_hw.astype(np.int64)
    corner_hw = (np.arange(rows)[:, None] % side_hw == 0) & (np.arange(columns) % side_hw == 0)
    row_K, column_K = np.nonzero(corner_hw)
    return np.stack([row_K, column_K, levels_hw[corner_hw]], axis=1).astype(np.int64)


def level_maps(
    maps: Sequence[torch.Tensor],
    method: Method,
    alpha: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> torch.Tensor:
    """`select_patches` of a batch, on its device and without waiting for it: int64 (B, h, w).

    Each entry is the level of the cell that covers the base cell; `cells_of` lists the cells of one image. maps: float
    (B, h, w) of each level in bits, as `entropy_maps` gives them, finite and at least 0 (not checked: that would wait).
    Raises ConfigError for wrong settings and for sides that do not halve.
    """
    import torch

    levels = len(maps)
    check_selection(method, alpha, thresholds, levels)
    rows, columns = check_grid([tuple(level_Bhw.shape) for level_Bhw in maps], 3)
    bits = [level_Bhw.double() for level_Bhw in maps]
    if method == "v1":
        limits = level_thresholds(thresholds, levels)
        coarse = [level_Bhw < limit for level_Bhw, limit in zip(bits[1:], limits, strict=True)]
    elif method == "v2":
        assert alpha is not None  # check_selection
        largest_Bhw = bits[largest_level(rows, columns, levels)]
        mean_B11 = largest_Bhw.sum((1, 2), keepdim=True) / (largest_Bhw.shape[1] * largest_Bhw.shape[2])
        coarse = [level_Bhw <= float(alpha) * mean_B11 for level_Bhw in bits[1:]]
    else:
        assert alpha is not None
        coarse = _unsplit_maps(bits, budget_counts(rows, columns, levels, alpha)["k"])
    levels_Bhw = torch.zeros_like(bits[0], dtype=torch.int64)
    for level, coarse_Bhw in enumerate(coarse, start=1):
        height, width = (side << level for side in coarse_Bhw.shape[1:])
        cell_Bhw = coarse_Bhw.repeat_interleave(1 << level, 1).repeat_interleave(1 << level, 2)
        levels_Bhw[:, :height, :width].masked_fill_(cell_Bhw, level)
    return levels_Bhw


def _paint(rows: int, columns: int, coarse: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (h, w): each base cell's level where cells of levels 1, 2 … are coarse as told; the largest wins."""
    levels_hw = np.zeros((rows, columns), dtype=np.int64)
    for level, coarse_hw in enumerate(coarse, start=1):
        height, width = (side << level for side in coarse_hw.shape)
        cell_hw = coarse_hw.repeat(1 << level, axis=0).repeat(1 << level, axis=1)
        levels_hw[:height, :width][cell_hw] = level
    return levels_hw


def _unsplit(bits: Sequence[np.ndarray], k: int) -> list[np.ndarray]:
    """For levels 1, 2 …: bool (h, w), whether a cell is not among the k most important."""
    if len(bits) == 1:
        return []
    importance = [bits[0]]
    for level_hw in bits[1:]:
        (rows, columns), below_hw = level_hw.shape, importance[-1]
        children = [below_hw[y : 2 * rows : 2, x : 2 * columns : 2] for y in (0, 1) for x in (0, 1)]
        importance.append(np.maximum.reduce([level_hw, *children]))
    coarsest_first = [level_hw.reshape(-1) for level_hw in importance[:0:-1]]
    order_C = np.argsort(-np.concatenate(coarsest_first), kind="stable")
    unsplit_C = np.ones(len(order_C), dtype=bool)
    unsplit_C[order_C[:k]] = False
    ends = np.cumsum([len(level) for level in coarsest_first])
    parts = np.split(unsplit_C, ends[:-1])[::-1]
    return [part.reshape(level_hw.shape) for part, level_hw in zip(parts, bits[1:], strict=True)]


def _unsplit_maps(bits: Sequence[torch.Tensor], k: int) -> list[torch.Tensor]:
    """`_unsplit` of a batch: bool (B, h, w) for each level from 1."""
    import torch

    if len(bits) == 1:
        return []
    importance = [bits[0]]
    for level_Bhw in bits[1:]:
        (_, rows, columns), below_Bhw = level_Bhw.shape, importance[-1]
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            level_Bhw = torch.maximum(level_Bhw, below_Bhw[:, y : 2 * rows : 2, x : 2 * columns : 2])
        importance.append(level_Bhw)
    coarsest_first = [level_Bhw.flatten(1) for level_Bhw in importance[:0:-1]]
    order_BC = torch.argsort(torch.cat(coarsest_first, dim=1), dim=1, descending=True, stable=True)
    unsplit_BC = torch.ones_like(order_BC, dtype=torch.bool).scatter_(1, order_BC[:, :k], False)
    parts = unsplit_BC.split([level.shape[1] for level in coarsest_first], dim=1)[::-1]
    return [part.unflatten(1, level_Bhw.shape[1:]) for part, level_Bhw in zip(parts, bits[1:], strict=True)]
