"""TokenLayout: the rectangle of the image that each vision token looks at.

Shapes: T tokens, G cells a side of a raster.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.tiling import Fit


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Where the T kept tokens of an image look.

    boxes: float32 (T, 4), (top, left, bottom, right) as shares of the image, 0..1; empty where a token sees nothing but
    padding. crop: int64 (T,), the crop a token is from; 0 is the global view. grid: (rows, columns) when the tokens are
    one view that covers the whole image, in raster order, else None. tiling: crops (rows, columns) beside that view.
    cells: the same tokens as grids one after the other, each int64 (T', 3), row, column and level: a cell of level s is
    2^s rows high and as many columns wide.
    """

    boxes: torch.Tensor
    crop: torch.Tensor
    grid: tuple[int, int] | None
    tiling: tuple[int, int] | None = None
    cells: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def has_global_view(self) -> bool:
        """Whether some tokens are of one view of the whole image."""
        return bool((self.crop == 0).any())

    @property
    def views(self) -> int:
        """Views that the vision tower computes for it."""
        return 1 if self.tiling is None else self.tiling[0] * self.tiling[1] + self.has_global_view


@lru_cache(maxsize=256)
def raster(layout: TokenLayout, side: int) -> torch.Tensor:
    """int64 (G, G): the token that sees each cell's centre most closely, that of the smallest rectangle.

    A cell that no token sees takes token 0. For layouts that are kept, as those of crops are: their rasters are too.
    Don't write into it.
    """
    boxes = layout.boxes.double().numpy()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # the cells whose centre, (index + .5) / G, lies in [low, high)
    first = np.ceil(boxes[:, :2] * side - 0.5).astype(int)
    last = np.ceil(boxes[:, 2:] * side - 0.5).astype(int)
    cells_GG = np.zeros((side, side), dtype=np.int64)
    for token in np.argsort(-area, kind="stable"):
        if area[token] > 0:
            (top, left), (bottom, right) = first[token], last[token]
            cells_GG[top:bottom, left:right] = token
    return torch.from_numpy(cells_GG)


def fine_cells(rows: int, columns: int) -> np.ndarray:
    """int64 (rows · columns, 3): every cell of a grid in raster order, as row, column, level 0."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack([row, column, np.zeros_like(row)], axis=1)


def cell_map(cells: np.ndarray) -> np.ndarray:
    """int64 (rows, columns): of each base cell, the number of that of int64 (T, 3) that covers it; -1 for none."""
    rows, columns = (cells[:, :2] + 2 ** cells[:, 2:]).max(axis=0)
    found = np.full((rows, columns), -1)
    for level in np.unique(cells[:, 2]):
        (numbers,) = np.nonzero(cells[:, 2] == level)
        inside = np.arange(2**level)
        row, column = cells[numbers, 0, None, None] + inside[:, None], cells[numbers, 1, None, None] + inside
        found[row, column] = numbers[:, None, None]
    return found


@lru_cache(maxsize=64)
def grid_layout(rows: int, columns: int) -> TokenLayout:
    """Layout of one view cut into `rows` × `columns` equal cells, raster order."""
    top = torch.arange(rows).repeat_interleave(columns)
    left = torch.arange(columns).repeat(rows)
    boxes = torch.stack([top / rows, left / columns, (top + 1) / rows, (left + 1) / columns], dim=1)
    return TokenLayout(
        boxes, torch.zeros(rows * columns, dtype=torch.int64), (rows, columns), cells=(fine_cells(rows, columns),)
    )


def patches_layout(cells: np.ndarray, rows: int, columns: int) -> TokenLayout:
    """Layout of a partition of one view of `rows` × `columns` base cells: int64 (T, 3), as in `TokenLayout.cells`.

    Level 0 everywhere is the layout of no selection.
    """
    if len(cells) == rows * columns:
        return grid_layout(rows, columns)
    first, side = cells[:, :2], 2 ** cells[:, 2:]
    edges = np.concatenate([first, first + side], axis=1) / np.array([rows, columns, rows, columns])
    boxes = torch.from_numpy(edges.astype(np.float32))
    return TokenLayout(boxes, torch.zeros(len(cells), dtype=torch.int64), None, cells=(cells,))


@lru_cache(maxsize=1024)
def tiling_layout(rows: int, columns: int, fit: Fit, geometry: Geometry, global_view: bool = True) -> TokenLayout:
    """Layout of `rows` × `columns` crops of a canvas on which the image lies as `fit` says.

    First the global view's tokens (the whole image, its aspect ratio not kept), then the crops' kept tokens in raster
    order of the canvas. Without a global view, one crop that the image fills is the grid of a single view.
    """
    (row_crop, _), (column_crop, _) = geometry.kept_axis(rows), geometry.kept_axis(columns)
    height, width = len(row_crop), len(column_crop)
    top, bottom = _shares(height, geometry.cell, fit.top, fit.height)
    left, right = _shares(width, geometry.cell, fit.left, fit.width)
    edges = [np.repeat(top, width), np.tile(left, height), np.repeat(bottom, width), np.tile(right, height)]
    boxes = torch.from_numpy(np.stack(edges, axis=1).astype(np.float32))
    boxes[(boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])] = 0
    crop = torch.from_numpy((row_crop[:, None] * columns + column_crop[None] + 1).reshape(-1))
    if global_view:
        whole = grid_layout(geometry.side, geometry.side)
        cells = (*whole.cells, fine_cells(height, width))
        return TokenLayout(torch.cat([whole.boxes, boxes]), torch.cat([whole.crop, crop]), None, (rows, columns), cells)
    full = (fit.top, fit.left, fit.height, fit.width) == (0, 0, *geometry.canvas(rows, columns))
    return TokenLayout(boxes, crop, (height, width) if full else None, (rows, columns), (fine_cells(height, width),))


def _shares(tokens: int, cell: int, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of each token's span of the canvas, as shares of the image that begins at `start` px."""
    edges = np.clip((np.arange(tokens + 1) * cell - start) / length, 0.0, 1.0)
    return edges[:-1], edges[1:]
