"""The rows of a validation: one Prediction for each region and for every further mask of it; what is counted of them.

Shapes: R regions of a batch, r of them predicted, S = image_size, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.data.batch import Batch, denormalise
from maskcap.data.rle import encode_mask
from maskcap.loops.outputs import LoopPrediction, Score
from maskcap.metrics.masks import MaskMetrics
from maskcap.metrics.prediction import Prediction
from maskcap.models.transfer import take

Row: TypeAlias = tuple[int, int, Prediction]  # number of the set, of the image among the rank's of this set

PREFIXES: dict[Score, str] = {"phrases": "", "prompts": "prompt_", "cycle": "cycle_", "cross_frame": "cross_frame_"}
OWN_WORDS = ("cycle", "cross_frame")  # scores of masks that the model's own captions asked for


def blank_rows(batch: Batch, set_name: str) -> list[list[Prediction]]:
    """One row for each region, in a list that further masks extend."""
    images = batch.images_of(range(len(batch.region_ids)))
    return [
        [
            Prediction(
                key=batch.keys[image],
                region_id=batch.region_ids[r],
                set_name=set_name,
                source=batch.sources[image],
                caption=batch.caption[r],
                references=tuple(batch.references[r]),
                phrase=batch.phrase[r],
                size=batch.sizes[image],
            )
        ]
        for r, image in enumerate(images)
    ]


def add_masks(
    prediction: LoopPrediction, batch: Batch, metric: MaskMetrics, found: list[list[Prediction]]
) -> dict[int, tuple[torch.Tensor, Prediction]]:
    """Score one loop's masks at the size of the true ones (image2's for cross_frame); returns the first predicted
    mask, bool (S, S), and its row by region.

    A region's first mask goes into its first row; every further one (another phrase, another loop) is a further row.
    """
    logits = prediction.mask_logits
    if logits is None or not prediction.regions:
        return {}
    every = batch.mask2 if prediction.score == "cross_frame" else batch.mask1
    assert every is not None, "a mask of the other frame was predicted, but the batch has no other frame"
    true = take(every, prediction.regions) > 0.5
    size = (true.shape[-2], true.shape[-1])
    predicted = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
    ious = metric.update(predicted, true).tolist()
    predicted, true = predicted.cpu(), true.cpu()
    masks: dict[int, tuple[torch.Tensor, Prediction]] = {}
    for row, r in enumerate(prediction.regions):
        scored = replace(
            found[r][0],
            phrase=prediction.phrases[row] if prediction.phrases is not None else None,
            iou=ious[row],
            predicted_rle=encode_mask(predicted[row].numpy()),
            true_rle=encode_mask(true[row].numpy()),
            score=prediction.score,
        )
        if found[r][0].iou is None:
            found[r][0] = scored
        else:  # the caption stays on one row: who scores captions sees each once
            found[r].append(replace(scored, predicted_caption=None, truncated=None))
        masks.setdefault(r, (predicted[row], scored))
    return masks


def frame_of(batch: Batch, r: int, score: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The frame that region r's masks of this score are of, uint8 (S, S, 3), and the true one there, bool (S, S)."""
    images, masks = batch.image1, batch.mask1
    if score == "cross_frame" and batch.image2 is not None and batch.mask2 is not None:
        images, masks = batch.image2, batch.mask2
    image = denormalise(images[batch.images_of([r])[0]]).permute(1, 2, 0).cpu().numpy()
    return (image * 255).round().astype(np.uint8), (masks[r] > 0.5).cpu().numpy()


def merge_ranks(parts: Sequence[Sequence[Row]]) -> list[Prediction]:
    """Each rank's rows, in the order in which one process would have made them: rank r has images r, r + world, …"""
    numbered = [
        (set_index, image, rank, number, prediction)
        for rank, rows in enumerate(parts)
        for number, (set_index, image, prediction) in enumerate(rows)
    ]
    return [row[-1] for row in sorted(numbered, key=lambda row: row[:-1])]


def caption_counts(predictions: Sequence[Prediction]) -> dict[str, float]:
    """What the rows of all ranks tell of the model's captions, by name: `caption_truncated`, the share that was cut;
    of the captions that asked for masks `cycle_distinct`, the share left when each text counts once, and
    `cycle_words`, their mean number of words. Each with its set's suffix; a set without such captions has none."""
    cut: dict[str, list[bool]] = {}
    own: dict[str, list[str]] = {}
    for prediction in predictions:
        if prediction.truncated is not None:
            cut.setdefault(prediction.set_name, []).append(prediction.truncated)
        if prediction.score in OWN_WORDS:
            own.setdefault(prediction.set_name, []).append(prediction.phrase or "")
    values = {f"caption_truncated{suffix(name)}": sum(flags) / len(flags) for name, flags in cut.items()}
    for name, phrases in own.items():
        values[f"cycle_distinct{suffix(name)}"] = len(set(phrases)) / len(phrases)
        values[f"cycle_words{suffix(name)}"] = sum(len(phrase.split()) for phrase in phrases) / len(phrases)
    return values


def suffix(name: str) -> str:
    """What a set's metrics end in: nothing for the set called main."""
    return "" if name == "main" else f"_{name}"
