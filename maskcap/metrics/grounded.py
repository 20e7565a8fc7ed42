"""Answers whose phrases have masks (grounded conversation): are the true phrases there, and each with its mask?

GLaMM's measures (Rasheed et al., 2024), with two changes. Its phrases are alike when a BERT says so, with cosine ≥ .5;
here by their words: F1 ≥ .5 of the two bags of words in lower case, articles left out. So "a man" and "the young man"
are alike, "a man" and "a guy" are not, and the recall is lower than theirs. And its pairs are found greedily, best IoU
first; here no other one-to-one matching has more pairs (recall), or a greater sum of IoU (mIoU). Masks are compared at
the size that they come in, as in `masks.py`.

Shapes: p predicted phrases of an answer, t true ones, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from maskcap.metrics.assignment import best_pairs
from maskcap.metrics.captions import bag_f1, tokenize_plain
from maskcap.metrics.masks import pairwise_iou

IOU, WORDS = 0.5, 0.5  # least IoU and least F1 of a phrase that was found
_ARTICLES = {"a", "an", "the"}


def phrase_f1(prediction: str, true: str) -> float:
    """F1 of the words of two phrases in lower case, articles left out, 0..1."""
    bags = [[word for word in tokenize_plain(phrase) if word not in _ARTICLES] for phrase in (prediction, true)]
    return bag_f1(*bags)


class GroundedMetrics:
    """Accumulates the answers of a split. Each `update` waits for the device once where masks are on one; give it
    masks on the host, where those of many answers are copied together."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # answers, those with as many [SEG]s as the true one, true phrases, found ones, found masks, ΣIoU
        self._sums = torch.zeros(6, dtype=torch.float64)
        self._synced = False

    def update(
        self, phrases: Sequence[str], masks: Tensor, true_phrases: Sequence[str], true_masks: Tensor
    ) -> list[tuple[int | None, float]]:
        """Add one answer; returns for each true phrase the predicted one matched to it by IoU (None: there is none
        left), and the IoU of the two masks (0 without).

        phrases: the words before each [SEG], p of them, "" where there are none; masks: bool or 0/1 (p, H, W).
        true_phrases, true_masks: t phrases and (t, H, W), on the same device. Raises ValueError on numbers or shapes
        that do not fit, and for an answer without a true phrase.
        """
        if self._synced:
            raise RuntimeError("update() after sync(): the sums are already over all ranks; call reset() first")
        _check(len(phrases), masks, "predicted")
        _check(len(true_phrases), true_masks, "true")
        if not true_phrases:
            raise ValueError("an answer without true phrases has nothing that could be found: leave it out")
        ious = pairwise_iou(masks, true_masks).cpu().double().numpy()
        words = np.array([[phrase_f1(said, true) for true in true_phrases] for said in phrases]).reshape(ious.shape)
        matched = {true: said for said, true in best_pairs(ious)}
        partners = [matched.get(true) for true in range(len(true_phrases))]
        pairs = [(said, 0.0 if said is None else float(ious[said, true])) for true, said in enumerate(partners)]
        found_masks = ious >= IOU
        found = _most(found_masks & (words >= WORDS)), _most(found_masks), sum(iou for _, iou in pairs)
        sums = 1, len(phrases) == len(true_phrases), len(true_phrases), *found
        self._sums += torch.tensor(sums, dtype=torch.float64)
        return pairs

    def merge(self, other: GroundedMetrics) -> None:
        """Add what another object has seen; the other is left as it is."""
        self._sums = self._sums + other._sums

    def sync(self) -> None:
        """Sum over all ranks when torch.distributed is initialised; every rank must call it; again is a no-op."""
        if self._synced or not (dist.is_available() and dist.is_initialized()):
            return
        on_device = self._sums.cuda() if dist.get_backend() == "nccl" else self._sums
        dist.all_reduce(on_device)
        self._sums = on_device.cpu()
        self._synced = True

    def compute(self) -> dict[str, float]:
        """In [0, 1]: `phrase_recall`, the share of true phrases for which a predicted one, matched one to one, has the
        mask (IoU ≥ .5) and the words; `mask_recall`, the same by the mask alone; `miou`, the mean over true phrases of
        the IoU with the mask matched to each (0 for those left over); `seg_aligned`, the share of answers with as many
        [SEG]s as the true one. And the counts `answers` and `phrases` (true ones), alone (0) where no answer was seen.
        """
        answers, aligned, phrases, found, masks, iou = self._sums.tolist()
        counts = {"answers": answers, "phrases": phrases}
        if not answers:
            return counts
        shares = {"phrase_recall": found / phrases, "mask_recall": masks / phrases, "miou": iou / phrases}
        return {**shares, "seg_aligned": aligned / answers, **counts}


def _most(may: np.ndarray) -> int:
    """How many of the allowed pairs, bool (p, t), fit one to one."""
    return sum(bool(may[pair]) for pair in best_pairs(may.astype(np.float64)))


def _check(phrases: int, masks: Tensor, which: str) -> None:
    if masks.ndim != 3 or masks.shape[0] != phrases:
        raise ValueError(f"{phrases} {which} phrases need masks ({phrases}, H, W), not {tuple(masks.shape)}")
