"""Mask, caption and grounding losses.

Shapes: R regions, H × W logits, N positions, V vocabulary, T grid cells, K width of queries and keys.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

TargetResize = Literal["nearest", "area"]


def sigmoid_ce_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sigmoid cross-entropy, mean over all pixels: (R, H, W) logits, targets in [0, 1] → scalar, unweighted."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 − (2·Σpt + 1)/(Σp + Σt + 1) on sigmoid probabilities, mean over regions (Sa2VA's): (R, H, W) → scalar."""
    p = logits.float().sigmoid().flatten(1)
    t = targets.float().flatten(1)
    return (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


def resize_targets(mask1: torch.Tensor, size: tuple[int, int], mode: TargetResize = "nearest") -> torch.Tensor:
    """Masks (R, H, W) → (R, *size): what the low-res logits are compared with.

    mode: `nearest` samples the top-left pixel of each cell (the published recipes), which teaches masks that are up to
    half a cell off: nothing at 1024 px, an eighth of a small object's width at 128 px. `area` is each cell's coverage.
    """
    if mask1.shape[-2:] == size:
        return mask1.float()
    return F.interpolate(mask1[:, None].float(), size, mode=mode)[:, 0]


def sample_uncertain(
    logits: torch.Tensor,
    targets: torch.Tensor,
    points: int,
    generator: torch.Generator | None = None,
    oversample: float = 3.0,
    importance: float = 0.75,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PointRend's sampling (Kirillov et al. 2020): logits and targets (R, H, W) at `points` points → two (R, points).

    Of `oversample·points` uniform points, the `importance` share with the smallest |logit| is kept; the rest are
    uniform. Targets may have another resolution than the logits. No gradient flows to the choice of points.
    """
    regions, device = logits.shape[0], logits.device

    def uniform(count: int) -> torch.Tensor:
        return torch.rand(regions, count, 2, generator=generator).to(device)

    with torch.no_grad():
        candidates = uniform(int(points * oversample))
        certainty = _at(logits, candidates).abs()
        hard = int(points * importance)
        best = certainty.topk(hard, dim=1, largest=False).indices
        chosen = torch.gather(candidates, 1, best[..., None].expand(-1, -1, 2))
        chosen = torch.cat([chosen, uniform(points - hard)], dim=1)
        target_points = _at(targets.float(), chosen)
    return _at(logits, chosen), target_points


def _at(maps_RHW: torch.Tensor, points_RP2: torch.Tensor) -> torch.Tensor:
    """Bilinear values (R, P) at points given as (x, y) shares of the image."""
    grid = 2 * points_RP2[:, :, None] - 1
    return F.grid_sample(maps_RHW[:, None].float(), grid, mode="bilinear", align_corners=False)[:, 0, :, 0]


def caption_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the answer's tokens, mean over tokens: (N, V) logits, int64 (N,) → scalar."""
    return F.cross_entropy(logits.float(), labels)


def grounding_loss(map_RT: torch.Tensor, coverage_RT: torch.Tensor) -> torch.Tensor:
    """Softmax CE + class-balanced sigmoid CE + dice of the grounding map against the soft coverage of each cell.

    map logits (R, T); coverage (R, T) in [0, 1] → scalar. Softmax CE asks which cells, the balanced CE weighs the
    few cells inside as much as the many outside, dice asks for the extent.
    """
    share = coverage_RT / coverage_RT.sum(1, keepdim=True).clamp_min(1e-6)
    where = -(share * map_RT.log_softmax(dim=1)).sum(1).mean()
    bce = F.binary_cross_entropy_with_logits(map_RT, coverage_RT, reduction="none")
    inside = (bce * coverage_RT).sum(1) / coverage_RT.sum(1).clamp_min(1e-6)
    outside = (bce * (1 - coverage_RT)).sum(1) / (1 - coverage_RT).sum(1).clamp_min(1e-6)
    return where + 0.5 * (inside + outside).mean() + dice_loss(map_RT[:, None], coverage_RT[:, None])


def phrase_contrast(
    query_RK: torch.Tensor,
    region_key_RK: torch.Tensor,
    same_RR: torch.Tensor,
    logit_scale: torch.Tensor | float,
) -> torch.Tensor:
    """Each phrase against the mean key of every region of the batch; regions with the same words are positives.

    query, region_key (R, K); same bool (R, R), True on the diagonal → scalar. Multi-positive softmax CE.
    """
    log_p = (query_RK @ region_key_RK.T * logit_scale).float().log_softmax(dim=1)
    positives = same_RR.float()
    return -((log_p * positives).sum(1) / positives.sum(1)).mean()


def region_keys(key_BTK: torch.Tensor, coverage_RT: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
    """Coverage-weighted mean key of each region: (R, K)."""
    weight = coverage_RT / coverage_RT.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("rt,rtk->rk", weight.to(key_BTK.dtype), key_BTK.index_select(0, region_image))
