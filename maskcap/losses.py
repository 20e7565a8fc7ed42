"""Mask, caption and grounding losses.

Shapes: R regions, H × W logits, N positions, A answer tokens, a of them in a chunk, C the language model's width,
V vocabulary, T grid cells, K width of queries and keys.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

TargetResize = Literal["nearest", "area"]
LOGITS_AT_ONCE = 2**24  # 64 MiB of float32; see answer_loss


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32; float64 stays, for whoever compares gradients with finite differences."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sigmoid_ce_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sigmoid cross-entropy, mean over all pixels: (R, H, W) logits, targets in [0, 1] → scalar, unweighted."""
    logits = at_least_float32(logits)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 − (2·Σpt + 1)/(Σp + Σt + 1) on sigmoid probabilities, mean over regions (Sa2VA's): (R, H, W) → scalar."""
    p = at_least_float32(logits).sigmoid().flatten(1)
    t = targets.to(p.dtype).flatten(1)
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
        """Points (R, count, 2) in [0, 1)."""
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
    return F.cross_entropy(at_least_float32(logits), labels)


def answer_loss(
    states_AC: torch.Tensor, weight_VC: torch.Tensor, labels_A: torch.Tensor, chunk: int | None = None
) -> torch.Tensor:
    """Vocabulary head and cross-entropy in one, mean over tokens: `caption_loss(states @ weightᵀ, labels)`, float32.

    states: last hidden states of the answers' tokens, A ≥ 1; labels int64 (A,) in [0, V). Under autocast the products
    are in its dtype, the rest in float32. Logits of at most `chunk` rows are alive at once; None: as many rows as make
    2**24 logits, 110 at V = 151 674. Tokens that fit into one chunk, so every small vocabulary, take the plain
    operations, which keep the logits for the backward and are the fastest.

    Chunked, the forward computes the gradients too, so that nothing is computed twice; a second backward through the
    same graph raises RuntimeError. On one core at V = 151 674, C = 896, the weights trained, forward and backward:
    A = 2048 took 694 MB and 25 s (plain logits 3736 MB, 33 s); A = 512 689 MB, of which the weights' gradient is 543,
    and with half, twice and four times the rows 656, 823 and 866 MB in about the same time. torch 2.13's
    `linear_cross_entropy` took 1176 MB there and a third more time, and its loss under bfloat16 has eight bits.
    """
    return answer_losses(states_AC, weight_VC, labels_A, chunk)[0]


def answer_losses(
    states_AC: torch.Tensor, weight_VC: torch.Tensor, labels_A: torch.Tensor, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`answer_loss`, and without gradient the cross-entropy of each token, float32 (A,)."""
    rows = chunk or max(1, LOGITS_AT_ONCE // weight_VC.shape[0])
    if labels_A.shape[0] <= rows:
        logits_AV = F.linear(states_AC, weight_VC)
        each = F.cross_entropy(at_least_float32(logits_AV.detach()), labels_A, reduction="none")
        return caption_loss(logits_AV, labels_A), each
    device = states_AC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states_AC.dtype
    return _ChunkedAnswerLoss.apply(states_AC, weight_VC, labels_A, rows, dtype, torch.is_grad_enabled())  # type: ignore[return-value]


class _ChunkedAnswerLoss(torch.autograd.Function):
    """`answer_losses` by chunks of rows; products in `dtype`, gradients in the dtypes of what they are of."""

    @staticmethod
    def forward(
        ctx: Any,
        states_AC: torch.Tensor,
        weight_VC: torch.Tensor,
        labels_A: torch.Tensor,
        rows: int,
        dtype: torch.dtype,
        differentiate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean over tokens, scalar float32, and each one's; keeps the gradients where `differentiate`."""
        tokens = labels_A.shape[0]
        grad_states = torch.empty_like(states_AC) if differentiate and states_AC.requires_grad else None
        grad_weight = torch.zeros_like(weight_VC) if differentiate and weight_VC.requires_grad else None
        cast_VC = weight_VC.to(dtype)
        total, losses = torch.zeros((), device=states_AC.device), []
        for start in range(0, tokens, rows):
            chunk_aC = states_AC[start : start + rows].to(dtype)
            loss_a, grad_aV = _losses_and_gradient((chunk_aC @ cast_VC.T).float(), labels_A[start : start + rows, None])
            total += loss_a.sum()
            losses.append(loss_a)
            grad_aV = grad_aV.to(dtype)  # of the sum: a mean's would be too small for float16
            if grad_states is not None:
                grad_states[start : start + rows] = grad_aV @ cast_VC
            if grad_weight is not None and grad_weight.dtype == dtype:
                grad_weight.addmm_(grad_aV.T, chunk_aC)
            elif grad_weight is not None:
                grad_weight += grad_aV.T @ chunk_aC
        ctx.gradients, ctx.tokens = (grad_states, grad_weight), tokens
        each_A = torch.cat(losses)
        ctx.mark_non_differentiable(each_A)
        return total / tokens, each_A

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The kept gradients times `scale`. Raises RuntimeError the second time."""
        if ctx.gradients is None:
            raise RuntimeError("answer_loss: its gradients were used up by the first backward")
        gradients, ctx.gradients = ctx.gradients, None
        scale = scale / ctx.tokens
        return *(None if gradient is None else gradient.mul_(scale) for gradient in gradients), None, None, None, None


def _losses_and_gradient(logits_aV: torch.Tensor, labels_a1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's cross-entropy (a,), and the gradient of their sum, softmax − one-hot, written over the logits."""
    highest_a1, chosen_a1 = logits_aV.amax(1, keepdim=True), logits_aV.gather(1, labels_a1)
    sum_a1 = logits_aV.sub_(highest_a1).exp_().sum(1, keepdim=True)
    loss_a1 = sum_a1.log() + highest_a1 - chosen_a1
    return loss_a1[:, 0], logits_aV.div_(sum_a1).scatter_add_(1, labels_a1, -torch.ones_like(chosen_a1))


def grounding_loss(
    map_RT: torch.Tensor, coverage_RT: torch.Tensor, valid_RT: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax CE + class-balanced sigmoid CE + dice of the grounding map against the soft coverage of each cell.

    map logits (R, T); coverage (R, T) in [0, 1] → scalar. Softmax CE asks which cells, the balanced CE weighs the
    few cells inside as much as the many outside, dice asks for the extent. valid bool (R, T): False for padding, where
    the map's logits are so low that nothing but the mean over the outside could see it.
    """
    coverage_RT = coverage_RT.to(map_RT.dtype)
    share = coverage_RT / coverage_RT.sum(1, keepdim=True).clamp_min(1e-6)
    where = -(share * map_RT.log_softmax(dim=1)).sum(1).mean()
    bce = F.binary_cross_entropy_with_logits(map_RT, coverage_RT, reduction="none")
    inside = (bce * coverage_RT).sum(1) / coverage_RT.sum(1).clamp_min(1e-6)
    outside_RT = (1 - coverage_RT) if valid_RT is None else (1 - coverage_RT) * valid_RT
    outside = (bce * outside_RT).sum(1) / outside_RT.sum(1).clamp_min(1e-6)
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
    log_p = at_least_float32(query_RK @ region_key_RK.T * logit_scale).log_softmax(dim=1)
    positives = same_RR.to(log_p.dtype)
    return -((log_p * positives).sum(1) / positives.sum(1)).mean()


def region_keys(key_BTK: torch.Tensor, coverage_RT: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
    """Coverage-weighted mean key of each region: (R, K)."""
    weight = coverage_RT / coverage_RT.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("rt,rtk->rk", weight.to(key_BTK.dtype), key_BTK.index_select(0, region_image))
