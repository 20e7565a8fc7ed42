"""The first regions and answers of a validation as pictures: which mask each shows, which frame, which words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from maskcap.data.batch import Batch, denormalise
from maskcap.data.rle import decode_mask
from maskcap.metrics.prediction import Prediction
from maskcap.training.validation_answers import AnswerRow
from maskcap.training.validation_rows import OWN_WORDS, says_something

# image uint8 (S, S, 3), true mask (S, S), predicted mask (S, S) or None, what was said
Picture: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]
Shown: TypeAlias = tuple[torch.Tensor, Prediction]  # a predicted mask bool (S, S) on the CPU, its row


def shows_more(new: Prediction, old: Prediction) -> bool:
    """Whether a region's picture shows this mask instead of an earlier one: of a region without a caption, what the
    model's own caption finds rather than what the true box does."""
    return new.caption is None and new.score in OWN_WORDS and old.score == "prompts"


def pictures_of(
    batch: Batch,
    found: Sequence[Sequence[Prediction]],
    shown: Mapping[int, Shown],
    answers: Mapping[int, AnswerRow],
) -> Iterator[Picture]:
    """Of each sample its regions, then its answer; samples that only fill a place, and those without an image, have
    none. shown: the mask that a region's picture shows."""
    owners = batch.images_of(range(len(batch.region_ids)))
    for image in range(len(batch.keys)):
        if batch.is_padding(image) or batch.is_blank(image):
            continue
        for r in [r for r, owner in enumerate(owners) if owner == image]:
            if image not in answers or says_something(found[r][0]):
                yield _of_region(batch, r, found[r][0], shown.get(r))
        if image in answers:
            yield _of_answer(batch, image, answers[image])


def _of_region(batch: Batch, r: int, first: Prediction, shown: Shown | None) -> Picture:
    """The frame that the shown mask is of, with the caption on the region's first row."""
    mask, row = shown or (None, first)
    image, true = frame_of(batch, r, row)
    predicted = None if mask is None else mask.numpy()
    if mask is None and row.predicted_rle is not None:  # a phrase's of an answer, about a region with a caption too
        predicted = decode_mask(row.predicted_rle, *true.shape) > 0
    said = first.predicted_caption
    if said is None and row.score in OWN_WORDS:
        said = row.phrase
    row = replace(row, predicted_caption=said, truncated=first.truncated)
    return image, true, predicted, row


def _of_answer(batch: Batch, image: int, answer: AnswerRow) -> Picture:
    """image1 with all masks of the answer, whose words stand where a region's caption does."""
    pixels = _pixels(batch.image1[image])
    true = np.zeros(pixels.shape[:2], bool) if answer.true is None else answer.true.numpy()
    said = answer.row
    said = replace(said, caption=said.answer, predicted_caption=said.predicted_answer, phrase=said.question)
    return pixels, true, None if answer.predicted is None else answer.predicted.numpy(), said


def frame_of(batch: Batch, r: int, row: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """The frame that the row of region r is of, uint8 (S, S, 3), and the true mask there, bool (S, S)."""
    sample = batch.images_of([r])[0]
    if row.score == "cross_frame" and batch.image2 is not None and batch.mask2 is not None:
        image, mask = batch.image2[sample], batch.mask2[r]
    elif row.frame and batch.frames is not None and batch.frame_masks is not None:  # 0 is image1
        number = batch.frame_owner.index(sample) + row.frame - 1
        of_mask = list(zip(batch.frame_mask_region, batch.frame_mask_frame, strict=True)).index((r, number))
        image, mask = batch.frames[number], batch.frame_masks[of_mask]
    else:
        image, mask = batch.image1[sample], batch.mask1[r]
    return _pixels(image), (mask > 0.5).cpu().numpy()


def _pixels(image_3SS: torch.Tensor) -> np.ndarray:
    return (denormalise(image_3SS).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
