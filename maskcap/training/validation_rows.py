"""The rows of a validation: one Prediction for each region and for every further mask of it; what is counted of them.

Shapes: B samples and R regions of a batch, r masks predicted, S = image_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
import torch.nn.functional as F

from maskcap.data.batch import Batch
from maskcap.data.rle import encode_mask
from maskcap.loops.outputs import LoopPrediction, Score
from maskcap.metrics.masks import MaskMetrics
from maskcap.metrics.prediction import Prediction
from maskcap.models.transfer import take, to_device

Row: TypeAlias = tuple[int, int, Prediction]  # number of the set, of the image among the rank's of this set

ANSWER = "answer"  # region_id of the rows that are of a whole record
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
    if prediction.score == "cross_frame":
        every, chosen = batch.mask2, prediction.regions
    else:
        every, chosen = batch.masks, prediction.regions if prediction.masks is None else prediction.masks
    assert every is not None, "a mask of the other frame was predicted, but the batch has no other frame"
    true = take(every, chosen) > 0.5
    predicted = at_size_of(logits, true)
    if prediction.score == "cross_frame":
        frames, in_video = [None] * len(chosen), [True] * len(chosen)
    else:
        frames = frames_of(batch, chosen)
        in_video = [frame is not None for frame in frames]
    (flags,) = to_device([torch.tensor(in_video)], true.device)
    ious = metric.update(predicted, true, flags).tolist()
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
            frame=frames[row],
        )
        add_row(found[r], scored)
        masks.setdefault(r, (predicted[row], scored))
    return masks


def add_row(rows: list[Prediction], scored: Prediction) -> None:
    """A mask's row among its region's: the first where that has no mask yet."""
    if rows[0].iou is None:
        rows[0] = scored
    else:  # the caption stays on one row: who scores captions sees each once
        rows.append(replace(scored, predicted_caption=None, truncated=None))


def at_size_of(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mask logits (r, M, M) → masks bool (r, S, S), S being the size of the true ones."""
    size = (true.shape[-2], true.shape[-1])
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0


def frames_of(batch: Batch, masks: Sequence[int]) -> list[int | None]:
    """Of masks (numbers in `batch.masks`) the frame that each is of, among its sample's own; None for stills'."""
    groups, owners, images = batch.groups, batch.mask_regions, batch.mask_images
    samples = batch.images_of([owners[mask] for mask in masks])
    if groups is None:
        return [None] * len(masks)
    return [
        groups[sample].index(images[mask]) if len(groups[sample]) > 1 else None
        for mask, sample in zip(masks, samples, strict=True)
    ]


def says_something(row: Prediction) -> bool:
    """Whether a region's first row is more than an answer tells: a region that only a conversation speaks of has no
    caption, and phrase and mask are the answer's."""
    own = (None, None) if row.score == "grounded" else (row.phrase, row.iou)
    return any(each is not None for each in (row.caption, row.predicted_caption, *own))


def merge_ranks(parts: Sequence[Sequence[Row]]) -> list[Prediction]:
    """Each rank's rows, in the order in which one process would have made them: rank r has images r, r + world, …"""
    numbered = [
        (set_index, image, rank, number, prediction)
        for rank, rows in enumerate(parts)
        for number, (set_index, image, prediction) in enumerate(rows)
    ]
    return [row[-1] for row in sorted(numbered, key=lambda row: row[:-1])]


def caption_counts(predictions: Sequence[Prediction]) -> dict[str, float]:
    """What the rows of all ranks tell of the model's captions, by name: `caption_truncated` (`answer_truncated`), the
    share that was cut; of the captions that asked for masks `cycle_distinct`, the share left when each text counts
    once, and `cycle_words`, their mean number of words. Each with its set's suffix; a set without such captions has
    none."""
    cut: dict[str, list[bool]] = {}
    own: dict[str, list[str]] = {}
    for prediction in predictions:
        if prediction.truncated is not None:
            of = "caption" if prediction.predicted_answer is None else "answer"
            cut.setdefault(f"{of}_truncated{suffix(prediction.set_name)}", []).append(prediction.truncated)
        if prediction.score in OWN_WORDS:
            own.setdefault(prediction.set_name, []).append(prediction.phrase or "")
    values = {name: sum(flags) / len(flags) for name, flags in cut.items()}
    for name, phrases in own.items():
        values[f"cycle_distinct{suffix(name)}"] = len(set(phrases)) / len(phrases)
        values[f"cycle_words{suffix(name)}"] = sum(len(phrase.split()) for phrase in phrases) / len(phrases)
    return values


def suffix(name: str) -> str:
    """What a set's metrics end in: nothing for the set called main."""
    return "" if name == "main" else f"_{name}"
