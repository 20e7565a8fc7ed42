"""Numbers of the vision tokens → maps of the image, for SAM2's dense prompt, on any layout.

Shapes: B images, R regions, T tokens of an image, h × w its grid's cells (H, W: the largest), m a map's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maskcap.models.transfer import to_device
from maskcap.vision_tokens.layout import TokenLayout, cell_map, raster


@dataclass(frozen=True)
class TokenMaps:
    """tokens int64 (B, k, m, m): which tokens each place of an image's map is a mean of. weights float32 (B, k, m, m):
    their shares; None with k = 1."""

    tokens: torch.Tensor
    weights: torch.Tensor | None = None

    def draw(self, values: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
        """Numbers of the regions' tokens (R, T) → maps (R, m, m)."""
        tokens_Rkmm = self.tokens.index_select(0, region_image)
        found = values.gather(1, tokens_Rkmm.flatten(1)).view_as(tokens_Rkmm)
        return found[:, 0] if self.weights is None else (found * self.weights.index_select(0, region_image)).sum(1)


def token_maps(layouts: Sequence[TokenLayout], side: int, device: torch.device) -> TokenMaps:
    """Maps of `side` places a side of B images, each as if it were alone.

    Of one view: bilinear between the grid's cells, a coarse one standing for all that it covers, as a map of the grid
    is resized (`align_corners=False`). Of crops: each place is the token that sees it most closely.
    """
    if any(layout.tiling is not None for layout in layouts):
        (tokens,) = to_device([torch.stack([raster(layout, side) for layout in layouts])[:, None]], device)
        return TokenMaps(tokens)
    maps = [cell_map(layout.cells[0]) for layout in layouts]
    height, width = (max(each.shape[axis] for each in maps) for axis in (0, 1))
    padded = [np.pad(each, ((0, height - each.shape[0]), (0, width - each.shape[1]))) for each in maps]
    numbers = [torch.from_numpy(np.stack(padded)), torch.tensor([each.shape for each in maps])]
    cells_BHW, sizes_B2 = to_device(numbers, device)
    (low_y, high_y, part_y), (low_x, high_x, part_x) = (_taps(sizes_B2[:, axis], side) for axis in (0, 1))
    tokens, weights = [], []
    for row, row_share in ((low_y, 1 - part_y), (high_y, part_y)):
        for column, column_share in ((low_x, 1 - part_x), (high_x, part_x)):
            at = row[:, :, None] * width + column[:, None]
            tokens.append(cells_BHW.flatten(1).gather(1, at.flatten(1)).view_as(at))
            weights.append(row_share[:, :, None] * column_share[:, None])
    return TokenMaps(torch.stack(tokens, dim=1), torch.stack(weights, dim=1))


def _taps(sizes_B: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each place on an axis: the cells before and after it, int64 (B, m), and the share of the latter."""
    centre = torch.arange(side, device=sizes_B.device) + 0.5
    at = (centre * (sizes_B[:, None] / side) - 0.5).clamp_min(0)
    low = at.long()
    return low, torch.minimum(low + 1, sizes_B[:, None] - 1), at - low
