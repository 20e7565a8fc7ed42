"""A batch of conversations, a video and a text, and loops that answer by rote: numbers from the pixels alone."""

from __future__ import annotations

from typing import Any

import torch

from maskcap.data.batch import Batch
from maskcap.data.record import Phrase, Turn
from maskcap.loops.base import Ask, Loop, LoopPrediction, Need, nothing_to_learn
from maskcap.loops.outputs import Answer
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.validation import Validation

GROUNDED = Turn("Describe it.", "a dog on a red sofa", (Phrase(0, 5, 1), Phrase(9, 19, 0)))
SAID = {0: "<p> the dog </p> [SEG] on <p> a rug </p> [SEG].", 2: "because"}
SHIFT = 2


def box(top: int, left: int, side: int = 8) -> torch.Tensor:
    """A square of 32 × 32 pixels."""
    mask = torch.zeros(32, 32)
    mask[top : top + side, left : left + side] = 1
    return mask


def spoken_batch() -> Batch:
    """A grounded answer (regions a, b), a video of three frames (a phrase about c, which has left the last one, and d,
    which nothing is said of), a text without an image."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        image1=torch.rand(3, 3, 32, 32, generator=generator),
        mask1=torch.stack([box(2, 2), box(2, 20), box(10, 10), box(20, 2)]),
        region_image=torch.tensor([0, 0, 1, 1]),
        caption=[None] * 4,
        phrase=[None, None, "the cat", None],
        question=[None] * 4,
        references=[()] * 4,
        phrases=[(), (), ("the cat",), ()],
        region_ids=["a", "b", "c", "d"],
        keys=["gcg/val/0", "clips/val/1", "talk/val/2"],
        sources=["gcg", "clips", "talk"],
        sizes=[(40, 50)] * 3,
        frames=torch.rand(2, 3, 32, 32, generator=generator),
        frame_owner=(1, 1),
        frame_masks=torch.stack([box(12, 10), torch.zeros(32, 32), box(20, 4), box(20, 6)]),
        frame_mask_region=(2, 2, 3, 3),
        frame_mask_frame=(0, 1, 0, 1),
        turns=[(GROUNDED,), (), (Turn("Who?", "nobody"), Turn("Why?", "because."))],
        empty=(False,) * 4,
        blank=(False, False, True),
        entries=["one", "two", "two"],
    )


class Says(Loop):
    """Answers SAID, the masks of the phrases being those of their own regions moved right."""

    needs: Need | None = "turns"
    generates = True
    weight = 1.0

    def ask(self, model: Any, batch: Batch, context: Any) -> Ask:
        return nothing_to_learn(model)

    def predict(self, model: Any, batch: Batch, encoded: Any) -> LoopPrediction:
        answers = []
        for image, turns in enumerate(batch.turns):
            if not turns:
                continue
            text = SAID[0 if turns[-1].phrases else 2]
            regions = [batch.region_of(image, phrase.region) for phrase in turns[-1].phrases]
            logits = batch.mask1[regions].roll(SHIFT, dims=2) - 0.5 if regions else None
            phrases = ("the dog", "a rug") if regions else ()
            answers.append(Answer(image, turns[-1].question, text, batch.sources[image] == "talk", phrases, logits))
        return LoopPrediction([], answers=answers)


class Follows(Loop):
    """Finds every phrase's masks in all frames, moved down."""

    needs: Need | None = "phrases"
    weight = 1.0

    def ask(self, model: Any, batch: Batch, context: Any) -> Ask:
        return nothing_to_learn(model)

    def predict(self, model: Any, batch: Batch, encoded: Any) -> LoopPrediction:
        asked = [region for region, phrases in enumerate(batch.phrases) if phrases]
        of_masks = batch.masks_of(asked)
        masks = [mask for _, mask in of_masks]
        regions = [asked[row] for row, _ in of_masks]
        logits = batch.masks[masks].roll(SHIFT, dims=1) - 0.5
        return LoopPrediction(regions, [batch.phrases[r][0] for r in regions], mask_logits=logits, masks=masks)


class Given(Loop):
    """Predicts what it was given, whatever the batch."""

    generates = True
    weight = 1.0

    def __init__(self, prediction: LoopPrediction, needs: Need | None = None) -> None:
        self.prediction, self.needs = prediction, needs

    def ask(self, model: Any, batch: Batch, context: Any) -> Ask:
        return nothing_to_learn(model)

    def predict(self, model: Any, batch: Batch, encoded: Any) -> LoopPrediction:
        return self.prediction


def validated(model: MaskCaptionModel, batch: Batch, *more: Loop) -> tuple[dict[str, float], Validation]:
    """Says, Follows and further loops, on one batch."""
    loops = [Says(), Follows(), *more]
    validation = Validation({str(number): loop for number, loop in enumerate(loops)}, None, meteor=False)
    validation.update(model, batch, 0)
    return validation.compute(), validation


def iou(side: int = 8) -> float:
    """Of a square with itself moved by SHIFT."""
    both = side * (side - SHIFT)
    return both / (2 * side * side - both)
