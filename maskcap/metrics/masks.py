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


class MaskMetrics:
    """Accumulates masks of a split; nothing waits for the device before `compute`.

    Precision at a threshold counts regions whose IoU reaches it (≥). cIoU is Σ∩ / Σ∪ over all regions of the split, so
    large objects weigh more than in mIoU. A region whose true mask is empty (a phrase without a target in gRefCOCO, a
    frame of a video that the object has left) scores 1 for an empty prediction and 0 for any other.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # Σ∩, Σ∪, regions, not 0/1, true masks without a pixel, predicted ones of these likewise, hits…
        self._counts = torch.zeros(6 + len(THRESHOLDS), dtype=torch.int64)
        self._iou_sum = torch.zeros(1, dtype=torch.float64)
        self._synced = False

    def update(self, pred_masks: Tensor, true_masks: Tensor) -> Tensor:
        """Add R regions and return their IoU, float (R,), left on the device.

        pred_masks, true_masks: (R, H, W), bool or 0/1 of any dtype. Values other than 0 and 1 (logits, say) are
        counted on the device and make `compute` raise. Raises ValueError on shapes that do not fit.
        """
        if self._synced:
            raise RuntimeError("update() after sync(): the sums are already over all ranks; call reset() first")
        intersection, union = _overlap(pred_masks, true_masks)
        iou = _ratio(intersection, union)
        no_target = ~_as_bool(true_masks).flatten(1).any(1)
        found_none = no_target & (union == 0)
        regions = torch.full_like(intersection.sum(), iou.shape[0])
        hits = [(iou >= threshold).sum() for threshold in THRESHOLDS]
        wrong = _not_binary(pred_masks) + _not_binary(true_masks)
        empties = no_target.sum(), found_none.sum()
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
        `no_target_accuracy` (the share of regions with an empty true mask whose prediction is empty) if there are any.

        Only `count` (0) when no region was seen. Raises ValueError when masks held values other than 0 and 1.
        """
        intersection, union, count, wrong, no_target, found_none, *hits = self._counts.tolist()
        if wrong:
            raise ValueError(f"{wrong} mask values were neither 0 nor 1: pass masks, not logits or probabilities")
        if not count:
            return {"count": 0.0}
        miou = self._iou_sum.item() / count
        scores = {"miou": miou, "giou": miou, "ciou": intersection / union if union else 1.0}
        for threshold, hit in zip(THRESHOLDS, hits, strict=True):
            scores[f"precision_{round(threshold * 100)}"] = hit / count
        if no_target:
            scores["no_target_accuracy"] = found_none / no_target
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
