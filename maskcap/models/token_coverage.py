"""Which tokens stand for a region, on any layout: each token's rectangle is asked about the mask.

On one grid over the whole image this is what `region_prompt.py` does by pooling, which is cheaper.

Shapes: R regions, T tokens of their images, H × W the masks' size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskcap.models.region_prompt import Pool

NEAR = 1e-3  # px: edges that lie on a pixel's but for rounding


def select_tokens(mask1: torch.Tensor, boxes: torch.Tensor, mode: Pool = "nearest") -> torch.Tensor:
    """Masks (R, H, W) in [0, 1], rectangles (R, T, 4) as in `TokenLayout` → bool (R, T): the tokens of each region.

    mode: `nearest` asks the pixel at the top left of the rectangle, `area` the mean over its pixels (> 0.5), `any`
    their maximum. An empty rectangle is never selected; a region may come out without a token: see `fill_unseen`.
    """
    if mode == "nearest":
        height, width = mask1.shape[-2:]
        top = (boxes[..., 0] * height + NEAR).long().clamp_max(height - 1)
        left = (boxes[..., 1] * width + NEAR).long().clamp_max(width - 1)
        sampled = mask1.flatten(1).gather(1, top * width + left)
        return (sampled > 0) & (boxes[..., 2] > boxes[..., 0])
    inside, pixels = _inside(mask1, boxes)
    if mode == "area":
        return inside > 0.5 * pixels
    if mode == "any":
        return inside > 0
    raise ValueError(f"pool mode {mode!r}: expected nearest, area or any")


def token_coverage(mask1: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Share of each rectangle (R, T, 4) that the mask (R, H, W) covers: (R, T) in [0, 1], 0 for an empty one."""
    inside, pixels = _inside(mask1, boxes)
    return (inside / pixels.clamp_min(1)).float()


def fill_unseen(selected: torch.Tensor, mask1: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every region at least one token: an empty selection (R, T) takes the one that the mask covers most of.

    Most in pixels, and of those alike the smallest rectangle. Returns (bool (R, T), int64 scalar on the device: how
    many regions needed it). No host–device sync.
    """
    empty = ~selected.any(dim=1)
    inside, pixels = _inside(mask1, boxes)
    # pixels are whole numbers: what is less than one decides between equals
    score = inside - pixels / (mask1.shape[-2] * mask1.shape[-1] + 1)
    best = score.argmax(dim=1)[:, None] == torch.arange(selected.shape[1], device=selected.device)
    return torch.where(empty[:, None], best, selected), empty.sum()


def _inside(mask1: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each rectangle, widened to whole pixels: the mask's sum and the number of pixels, float64 (R, T).

    By the mask's integral image, whose sums of zeros and ones are exact up to 2²⁴; adaptive average pooling widens its
    cells likewise.
    """
    height, width = mask1.shape[-2:]
    sums = F.pad(mask1.float().cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1)
    first = (boxes[..., :2] * boxes.new_tensor([height, width]) + NEAR).floor().long()
    last = (boxes[..., 2:] * boxes.new_tensor([height, width]) - NEAR).ceil().long()
    last = torch.maximum(first, last)

    def at(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The summed area up to each corner."""
        return sums.gather(1, row * (width + 1) + column)

    (top, left), (bottom, right) = first.unbind(-1), last.unbind(-1)
    inside = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    return inside.double(), ((bottom - top) * (right - left)).double()
