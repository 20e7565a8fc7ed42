"""Answers to questions about whole samples: scored as texts, and by the masks of their phrases; their rows.

Shapes: B samples and R regions of a batch, p [SEG]s of an answer, t phrases of the true one, S = image_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from maskcap.data.batch import Batch
from maskcap.data.rle import encode_mask
from maskcap.loops.outputs import Answer
from maskcap.metrics.captions import CaptionMetrics, without_tags
from maskcap.metrics.grounded import GroundedMetrics
from maskcap.metrics.meteor import Meteor
from maskcap.metrics.prediction import Prediction
from maskcap.models.transfer import take
from maskcap.training.validation_rows import ANSWER, add_row, at_size_of


@dataclass(frozen=True)
class AnswerRow:
    """An answer as it was scored: its row, and what a picture of it shows: the true and the predicted phrases' masks
    together, bool (S, S) on the CPU (None: neither answer has masks)."""

    row: Prediction
    true: torch.Tensor | None
    predicted: torch.Tensor | None


class AnswerScores:
    """The answers of one set. Metrics: `answer_exact`, … (as `caption_exact`, …) of their words, and where the true
    answer has phrases `gcg_phrase_recall`, … (see GroundedMetrics)."""

    def __init__(self, meteor: bool | Meteor) -> None:
        self.words = CaptionMetrics(meteor=meteor)
        self.grounded = GroundedMetrics()

    def update(
        self, answers: Sequence[Answer], batch: Batch, set_name: str, found: list[list[Prediction]]
    ) -> dict[int, AnswerRow]:
        """Score a batch's answers, each against its sample's last turn; their rows by sample. A true phrase's mask
        becomes a row of its region, in `found`. Waits for the device once, if any of them has phrases."""
        rows: dict[int, AnswerRow] = {}
        masks = _masks_of_phrases(answers, batch)
        for answer in answers:
            turn = batch.turns[answer.image][-1]
            self.words.update([without_tags(answer.text)], [[turn.answer]])
            row = Prediction(
                key=batch.keys[answer.image],
                region_id=ANSWER,
                set_name=set_name,
                source=batch.sources[answer.image],
                size=None if batch.is_blank(answer.image) else batch.sizes[answer.image],
                truncated=answer.truncated,
                question=answer.question,
                answer=turn.answer,
                predicted_answer=answer.text,
            )
            if answer.image not in masks:
                rows[answer.image] = AnswerRow(row, None, None)
                continue
            true, predicted = masks[answer.image]
            self._add_phrases(answer, batch, true, predicted, found)
            rows[answer.image] = AnswerRow(row, true.any(0), predicted.any(0))
        return rows

    def _add_phrases(
        self,
        answer: Answer,
        batch: Batch,
        true: torch.Tensor,
        predicted: torch.Tensor,
        found: list[list[Prediction]],
    ) -> None:
        """Score the masks, bool (t, S, S) and (p, S, S) on the host; a row for each true one."""
        turn = batch.turns[answer.image][-1]
        phrases = [turn.answer[phrase.start : phrase.end] for phrase in turn.phrases]
        pairs = self.grounded.update(answer.phrases, predicted, phrases, true)
        regions = _grounded_regions(batch, answer.image)
        for number, (region, (said, iou)) in enumerate(zip(regions, pairs, strict=True)):
            row = replace(
                found[region][0],
                phrase=phrases[number],
                iou=iou,
                predicted_rle=None if said is None else encode_mask(predicted[said].numpy()),
                true_rle=encode_mask(true[number].numpy()),
                score="grounded",
                frame=None,
            )
            add_row(found[region], row)

    def sync(self) -> None:
        """Take in what the other ranks have; every rank must call it, and `compute` after it."""
        self.words.sync()
        self.grounded.sync()

    def compute(self) -> dict[str, float]:
        """All scores by name; none of what the set has no answers for."""
        words = self.words.compute()
        scores = {f"answer_{name.removeprefix('caption_')}": value for name, value in words.items()}
        grounded = self.grounded.compute()
        for count in ("answers", "phrases"):
            grounded.pop(count)
        return scores | {f"gcg_{name}": value for name, value in grounded.items()}


def _grounded_regions(batch: Batch, image: int) -> list[int]:
    """The region of each phrase of the sample's last answer."""
    return [batch.region_of(image, phrase.region) for phrase in batch.turns[image][-1].phrases]


def _masks_of_phrases(answers: Sequence[Answer], batch: Batch) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """By sample, of each whose true answer has phrases: the true masks and the predicted ones, bool (t, S, S) and
    (p, S, S) on the host, where all of them are copied together."""
    grounded = [answer for answer in answers if batch.turns[answer.image][-1].phrases]
    parts: list[torch.Tensor] = []
    for answer in grounded:
        true = take(batch.mask1, _grounded_regions(batch, answer.image)) > 0.5
        parts += [true, true[:0] if answer.mask_logits is None else at_size_of(answer.mask_logits, true)]
    if not parts:
        return {}
    on_host = torch.cat(parts).cpu().split([len(part) for part in parts])
    return dict(zip([answer.image for answer in grounded], zip(on_host[::2], on_host[1::2], strict=True), strict=True))
