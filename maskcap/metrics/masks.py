"""Intersection over union of masks: mean over regions (mIoU = gIoU), over the split (cIoU), precision at thresholds.

The numbers are of the masks that are given. Validation gives masks at `image_size`, the whole image resized to a
square, not at the original size. cIoU then weighs each region by its share of the image, where RefCOCO's published cIoU
weighs it by its original pixels; mIoU and precision differ by the resize alone. For published numbers resize the masks
of `predictions.jsonl` to each line's `size` and score them again.

Shapes: R regions, H × W pixels.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

THRESHOLDS = (0.5, 0.7, 0.9)


def mask_iou(pred: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of each pair of masks.

    pred, true: (R, H, W), bool or 0/1 of any dtype (a float counts as set above 0.5), on the same device.
    Returns float (R,) in [0, 1] on that device, float64 where the device has it; two empty masks score 1.
    Raises ValueError when the shapes differ or are not (R, H, W).
    """
    intersection, union = _overlap(pred, true)
    return _ratio(intersection, union)


def pairwise_iou(masks: Tensor, true_masks: Tensor) -> Tensor:
    """Intersection over union of every mask with every true one.

    masks: (p, H, W), true_masks: (t, H, W), bool or 0/1 of any dtype, on the same device. Returns float (p, t) as
    `mask_iou` does; two empty masks score 1. Raises ValueError when the shapes do not fit.
    """
    if masks.ndim != 3 or true_masks.ndim != 3 or masks.shape[1:] != true_masks.shape[1:]:
        raise ValueError(
            f"masks must be (p, H, W) and (t, H, W); predicted {tuple(masks.shape)}, true {tuple(true_masks.shape)}"
        )
    exact = torch.float32 if masks.shape[1] * masks.shape[2] <= 2**23 else torch.float64  # sums of two masks' pixels
    left, right = (_as_bool(each).flatten(1).to(exact) for each in (masks, true_masks))
    with torch.autocast(masks.device.type, enabled=False):  # sums of pixels do not fit half precision
        intersection = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1) - intersection
    return _ratio(intersection, union)


class MaskMetrics:
    """Accumulates masks of a split; nothing waits for the device before `compute`.

    cIoU is Σ∩ / Σ∪ over all regions of the split, so large objects weigh more than in mIoU. A region whose true mask is
    empty scores 1 for an empty prediction and 0 for any other, and counts in mIoU and precision as every other region.
    Precision at a threshold is the share of all these regions, those without a target too, whose IoU reaches it (≥);
    gRefCOCO's own counts those with a target alone. What has no target is a phrase that means nothing in the image
    (gRefCOCO's), or an object that a video's frame does not show: each kind has an accuracy of its own.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # Σ∩, Σ∪, regions, not 0/1; true masks without a pixel and predicted ones of these likewise, of phrases without
        # a target and of frames; hits…
        self._counts = torch.zeros(8 + len(THRESHOLDS), dtype=torch.int64)
        self._iou_sum = torch.zeros(1, dtype=torch.float64)
        self._synced = False

    def update(self, pred_masks: Tensor, true_masks: Tensor, in_video: Tensor | None = None) -> Tensor:
        """Add R regions and return their IoU, float (R,), left on the device.

        pred_masks, true_masks: (R, H, W), bool or 0/1 of any dtype. Values other than 0 and 1 (logits, say) are
        counted on the device and make `compute` raise. in_video: bool (R,) on the device, which masks are of one frame
        among several; None: none of them. Raises ValueError on shapes that do not fit.
        """
        if self._synced:
            raise RuntimeError("update() after sync(): the sums are already over all ranks; call reset() first")
        intersection, union = _overlap(pred_masks, true_masks)
        iou = _ratio(intersection, union)
        no_target = ~_as_bool(true_masks).flatten(1).any(1)
        if in_video is not None and in_video.shape != no_target.shape:
            raise ValueError(f"in_video must be ({no_target.shape[0]},), one flag for each mask")
        absent = torch.zeros_like(no_target) if in_video is None else no_target & in_video
        no_target = no_target & ~absent
        regions = torch.full_like(intersection.sum(), iou.shape[0])
        hits = [(iou >= threshold).sum() for threshold in THRESHOLDS]
        wrong = _not_binary(pred_masks) + _not_binary(true_masks)
        empties = [count.sum() for kind in (no_target, absent) for count in (kind, kind & (union == 0))]
        counts = torch.stack([intersection.sum(), union.sum(), regions, wrong.to(regions.device), *empties, *hits])
        self._counts = self._counts.to(counts.device) + counts
        self._iou_sum = self._iou_sum.to(iou) + iou.sum()
        return iou

    def merge(self, other: MaskMetrics) -> None:
        """Add what another object has seen; the other is left as it is."""
        self._counts = self._counts + other._counts.to(self._counts.device)
        self._iou_sum = self._iou_sum + other._iou_sum.to(self._iou_sum)

    def sync(self) -> None:
        """Sum over all ranks when torch.distributed is initialised; every rank must call it; again is a no-op."""
        if self._synced or not (dist.is_available() and dist.is_initialized()):
            return
        if dist.get_backend() == "nccl":  # a rank that saw no region still holds its sums on the CPU
            device = torch.device("cuda", torch.cuda.current_device())
            self._counts, self._iou_sum = self._counts.to(device), self._iou_sum.to(device)
        dist.all_reduce(self._counts)
        dist.all_reduce(self._iou_sum)
        self._synced = True

    def compute(self) -> dict[str, float]:
        """`miou`, `giou` (the same number), `ciou`, `precision_50`, `precision_70`, `precision_90` in [0, 1], `count`;
        and where there are any, `no_target_accuracy`, the share of phrases without a target whose prediction is empty,
        and `absent_accuracy`, that of masks in frames which the object is not in.

        Only `count` (0) when no region was seen. Raises ValueError when masks held values other than 0 and 1.
        """
        intersection, union, count, wrong, no_target, none_found, absent, absent_found, *hits = self._counts.tolist()
        if wrong:
            raise ValueError(f"{wrong} mask values were neither 0 nor 1: pass masks, not logits or probabilities")
        if not count:
            return {"count": 0.0}
        miou = self._iou_sum.item() / count
        scores = {"miou": miou, "giou": miou, "ciou": intersection / union if union else 1.0}
        for threshold, hit in zip(THRESHOLDS, hits, strict=True):
            scores[f"precision_{round(threshold * 100)}"] = hit / count
        if no_target:
            scores["no_target_accuracy"] = none_found / no_target
        if absent:
            scores["absent_accuracy"] = absent_found / absent
        return {**scores, "count": float(count)}


def _overlap(pred: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of the intersection and of the union, int64 (R,) each."""
    if pred.ndim != 3 or pred.shape != true.shape:
        raise ValueError(
            f"masks must both be (R, H, W) of one size; predicted {tuple(pred.shape)}, true {tuple(true.shape)}"
        )
    pred, true = _as_bool(pred).flatten(1), _as_bool(true).flatten(1)
    return (pred & true).sum(1), (pred | true).sum(1)


def _ratio(intersection: Tensor, union: Tensor) -> Tensor:
    dtype = torch.float32 if union.device.type == "mps" else torch.float64  # MPS has no float64
    return torch.where(union > 0, intersection.to(dtype) / union.clamp(min=1), 1.0)


def _as_bool(mask: Tensor) -> Tensor:
    return mask > 0.5 if mask.is_floating_point() else mask.bool()


def _not_binary(mask: Tensor) -> Tensor:
    """How many values are neither 0 nor 1 (NaN included), an int64 scalar on the device."""
    if mask.dtype == torch.bool:
        return torch.zeros((), dtype=torch.int64, device=mask.device)
    return ((mask != 0) & (mask != 1)).sum()
