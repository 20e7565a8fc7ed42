"""Numbers of the vision tokens → maps of the image, for SAM2's dense prompt, on any layout.

Shapes: B images, R regions, T tokens of an image, h × w cells of its grid (H, W: the most), m a map's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from maskcap.models.transfer import to_device
from maskcap.vision_tokens.layout import TokenLayout, cell_map, raster


@dataclass(frozen=True)
class TokenMaps:
    """cells int64 (B, H, W): the token of each cell of an image's grid. rows (B, m, H), columns (B, m, W) float32: each
    place of the map as a mean of cells; None where the grids are the maps."""

    cells: torch.Tensor
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def draw(self, values: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
        """Numbers of the regions' tokens (R, T) → maps (R, m, m), float32 unless the grids are the maps."""
        cells_RHW = self.cells.index_select(0, region_image)
        grids_RHW = values.gather(1, cells_RHW.flatten(1)).view_as(cells_RHW)
        if self.rows is None or self.columns is None:
            return grids_RHW
        rows, columns = (each.index_select(0, region_image) for each in (self.rows, self.columns))
        with torch.autocast(values.device.type, enabled=False):
            return rows @ grids_RHW.float() @ columns.mT


def token_maps(layouts: Sequence[TokenLayout], side: int, device: torch.device) -> TokenMaps:
    """Maps of `side` places a side of B images, each as if it were alone.

    Of one view: bilinear between the grid's cells, a coarse one standing for all that it covers, as a map of the grid
    is resized (`align_corners=False`). Of crops that are no such grid: each place is the token that sees it best.
    """
    crops = [layout.grid is None and layout.tiling is not None for layout in layouts]
    cells = [
        raster(layout, side).numpy() if several else cell_map(layout.cells[0])
        for layout, several in zip(layouts, crops, strict=True)
    ]
    most = [max(each.shape[axis] for each in cells) for axis in (0, 1)]
    padded = [np.pad(each, [(0, most[axis] - each.shape[axis]) for axis in (0, 1)]) for each in cells]
    (cells_BHW,) = to_device([torch.from_numpy(np.stack(padded))], device)
    if all(crops):
        return TokenMaps(cells_BHW)
    weights = [
        torch.from_numpy(np.stack([_padded(_bilinear(each.shape[axis], side), most[axis]) for each in cells]))
        for axis in (0, 1)
    ]
    return TokenMaps(cells_BHW, *to_device(weights, device))


@lru_cache(maxsize=256)
def _bilinear(cells: int, side: int) -> np.ndarray:
    """float32 (side, cells): each place of an axis as a mean of the cells around it; the identity for as many."""
    at = np.maximum((np.arange(side) + 0.5) * (cells / side) - 0.5, 0.0)
    low = at.astype(np.int64)
    found = np.zeros((side, cells))
    np.add.at(found, (np.arange(side), low), 1 - (at - low))
    np.add.at(found, (np.arange(side), np.minimum(low + 1, cells - 1)), at - low)
    return found.astype(np.float32)


def _padded(weights: np.ndarray, cells: int) -> np.ndarray:
    return np.pad(weights, ((0, 0), (0, cells - weights.shape[1])))
