"""Answers to questions about whole samples: scored as texts, and by the masks of their phrases; their rows.

Shapes: B samples and R regions of a batch, p [SEG]s of an answer, t phrases of the true one, S = image_size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from maskcap.data.batch import Batch
from maskcap.data.rle import encode_mask
from maskcap.loops.outputs import Answer
from maskcap.metrics.captions import CaptionMetrics
from maskcap.metrics.grounded import GroundedMetrics
from maskcap.metrics.meteor import Meteor
from maskcap.metrics.prediction import Prediction
from maskcap.models.transfer import take
from maskcap.training.validation_rows import ANSWER, add_row, at_size_of

_TAGS = re.compile(r"<p>\s*|\s*</p>|\s*\[SEG\]")


def without_tags(text: str) -> str:
    """An answer's words: `<p> a dog </p> [SEG] sits.` → `a dog sits.`"""
    return " ".join(_TAGS.sub("", text).split())


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
        becomes a row of its region, in `found`."""
        rows: dict[int, AnswerRow] = {}
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
            masks = self._add_phrases(answer, batch, found) if turn.phrases else (None, None)
            rows[answer.image] = AnswerRow(row, *masks)
        return rows

    def _add_phrases(
        self, answer: Answer, batch: Batch, found: list[list[Prediction]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The unions of the true masks and of the predicted ones."""
        turn = batch.turns[answer.image][-1]
        regions = [batch.region_of(answer.image, phrase.region) for phrase in turn.phrases]
        true = take(batch.mask1, regions) > 0.5
        logits = answer.mask_logits
        predicted = true[:0] if logits is None else at_size_of(logits, true)
        phrases = [turn.answer[phrase.start : phrase.end] for phrase in turn.phrases]
        pairs = self.grounded.update(answer.phrases, predicted, phrases, true)
        true, predicted = true.cpu(), predicted.cpu()
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
        return true.any(0), predicted.any(0)

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
