"""From a region's mask to the image tokens that stand for it: resize, pool, boolean selection.

Shapes: B images, R regions, T tokens an image, C channels, G cells a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.models.transfer import to_device, to_host

Pool = Literal["nearest", "area", "any"]


def resize_image(image1: torch.Tensor, size: int, antialias: bool = False) -> torch.Tensor:
    """Bilinear resize of (B, 3, H, W) float images to (B, 3, size, size), `align_corners=False`.

    448 px is InternVL's input. The default has no antialias filter, as in the recipes this replaces.
    """
    if image1.shape[-2:] == (size, size):
        return image1
    return F.interpolate(image1, (size, size), mode="bilinear", align_corners=False, antialias=antialias)


def pool_masks(mask1: torch.Tensor, grid: int = 16, mode: Pool = "nearest") -> torch.Tensor:
    """Masks (R, H, W) in [0, 1] → bool (R, grid, grid): which cells of the token grid belong to the region.

    mode: `nearest` samples the pixel at the top left of each cell (Osprey, Sa2VA: `F.interpolate(mode="nearest")`);
    `area` is average pooling > 0.5 (Describe-Anything); `any` is max pooling. A region may come out empty: see
    `fill_empty`.
    """
    mask_R1HW = mask1[:, None].float()
    if mode == "nearest":
        return F.interpolate(mask_R1HW, (grid, grid), mode="nearest")[:, 0].bool()
    if mode == "area":
        return F.adaptive_avg_pool2d(mask_R1HW, grid)[:, 0] > 0.5
    if mode == "any":
        return F.adaptive_max_pool2d(mask_R1HW, grid)[:, 0] > 0
    raise ValueError(f"pool mode {mode!r}: expected nearest, area or any")


def coverage(mask1: torch.Tensor, grid: int) -> torch.Tensor:
    """Share of each cell that the mask covers: (R, H, W) → float (R, grid·grid) in [0, 1]."""
    return F.adaptive_avg_pool2d(mask1[:, None].float(), grid)[:, 0].flatten(1)


def fill_empty(prompt_masks: torch.Tensor, mask1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every region at least one token: an empty (G, G) selection takes the cell that the mask covers most.

    Returns (bool (R, G, G), int64 scalar on the device: how many regions needed it). No host–device sync.
    """
    regions, grid = prompt_masks.shape[0], prompt_masks.shape[-1]
    flat = prompt_masks.flatten(1)
    empty = ~flat.any(dim=1)
    best = coverage(mask1, grid).argmax(dim=1)[:, None] == torch.arange(grid * grid, device=mask1.device)
    return torch.where(empty[:, None], best, flat).view(regions, grid, grid), empty.sum()


def select_features(
    features: torch.Tensor, prompt_masks: torch.Tensor, region_image: torch.Tensor
) -> list[torch.Tensor]:
    """Boolean selection of each region's tokens, raster order.

    features (B, T, C), prompt_masks bool (R, G, G) with G·G = T, region_image int64 (R,) → R tensors (n_r, C).
    The selector has no parameters and sends no gradient to the mask. It waits for the device once, for all regions.
    """
    chosen = choose_features(features, prompt_masks, region_image)
    return list(chosen.features.split(chosen.counts))


@dataclass(frozen=True)
class Chosen:
    """Regions' tokens: features (Σ n_r, C), in region order; on the host each one's image and token numbers (n_r)."""

    features: torch.Tensor
    images: list[int]
    tokens: list[np.ndarray]

    @property
    def counts(self) -> list[int]:
        """The n_r."""
        return [len(each) for each in self.tokens]


def choose_features(features: torch.Tensor, prompt_masks: torch.Tensor, region_image: torch.Tensor) -> Chosen:
    """As `select_features`, of all regions at once.

    The masks come to the host, since the sequences' lengths depend on them: the one wait.
    """
    tokens = features.shape[1]
    mask_RT = prompt_masks.flatten(1)
    # the images' numbers travel with the masks, as bytes
    numbers = region_image.long()[:, None].contiguous().view(torch.uint8)
    host = to_host(torch.cat([mask_RT.to(torch.uint8), numbers], dim=1))
    images = np.ascontiguousarray(host[:, mask_RT.shape[1] :]).view(np.int64)[:, 0]
    region, token = np.nonzero(host[:, : mask_RT.shape[1]])
    (rows,) = to_device([torch.from_numpy(images[region] * tokens + token)], features.device)
    ends = np.cumsum(np.bincount(region, minlength=len(host)))[:-1]
    selected = features.flatten(0, 1).index_select(0, rows)
    return Chosen(selected, images.tolist(), np.split(token, ends)[: len(host)])
