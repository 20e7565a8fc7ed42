"""What a loop gives back: of a training step its loss, and what each part of it is a mean over; its predictions.

Shapes: R regions of the batch, r of them that the loop can use, p [SEG]s of an answer, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch

from maskcap.models.transfer import take

Over: TypeAlias = Literal["regions", "answers", "spoken", "tokens", "contrasted"]
Kind: TypeAlias = Literal["text", "mask"]
Score: TypeAlias = Literal["phrases", "prompts", "cycle", "cross_frame"]
OVER: tuple[Over, ...] = ("regions", "answers", "spoken", "tokens", "contrasted")


@dataclass(frozen=True)
class LoopOutput:
    """`loss`: scalar with gradient, the loop's weight not yet applied. `logs`: detached scalars by name.

    For several ranks, whose batches are of different sizes: parts: what the loss is the sum of, (weight, value) by
    name. over: what each part, and each log beside them, is a mean over; a log that is in neither is a number of this
    batch, and the ranks' are added. counts: how many of each this rank's are over. A loop that leaves `counts` out
    weighs every rank alike.
    by_entry: (entry of the mixture, text or mask) → the mean of this batch's losses of that kind with their weights,
    and over how many tokens or masks; see `by_entry.py`.
    """

    loss: torch.Tensor
    logs: dict[str, torch.Tensor]
    parts: Mapping[str, tuple[float, torch.Tensor]] = field(default_factory=dict)
    over: Mapping[str, Over] = field(default_factory=dict)
    counts: Mapping[Over, int] = field(default_factory=dict)
    by_entry: Mapping[tuple[str, Kind], tuple[torch.Tensor, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a loop answers to a sample's last question, told all turns before it.

    image: which of the B samples of the batch. question: that turn's, as the data has it. text: as it was generated,
    `<p>`, `</p>` and [SEG] among the words. truncated: whether it was cut at the model's limit.
    phrases: the words before each [SEG] ("" where there are none). mask_logits: float (p, M, M), the k-th [SEG]'s mask
    in image1; None for an answer without [SEG].
    """

    image: int
    question: str
    text: str
    truncated: bool = False
    phrases: tuple[str, ...] = ()
    mask_logits: torch.Tensor | None = None


@dataclass(frozen=True)
class LoopPrediction:
    """What a loop says of a validation batch about its `regions` (indices into R, repeated where several phrases, or
    frames, mean one): captions and whether each was cut for length, mask logits float (r, M, M), with the phrases that
    asked for them, if words did; or both. Of whole samples: answers.

    score: what asked for the masks, hence which metrics they count in: the data's `phrases`, `prompts` (points, boxes),
      `cycle` (captions that the model wrote itself), `cross_frame` (these too, but masks of image2, scored by mask2).
    masks: what each mask is scored against, as an index into all masks of the batch: 0 … R − 1 is mask1, and from R on
      frame_masks, in their order. None: the regions' own.
    """

    regions: list[int]
    phrases: list[str] | None = None
    captions: list[str] | None = None
    truncated: list[bool] | None = None
    mask_logits: torch.Tensor | None = None
    score: Score = "phrases"
    masks: list[int] | None = None
    answers: list[Answer] | None = None

    def without(self, regions: set[int], images: Container[int] = ()) -> LoopPrediction:
        """The same of all other regions, with the answers of all other images (samples)."""
        kept = [row for row, region in enumerate(self.regions) if region not in regions]
        answers = self.answers
        if answers is not None and any(answer.image in images for answer in answers):
            answers = [answer for answer in answers if answer.image not in images]
        if len(kept) == len(self.regions) and answers is self.answers:
            return self

        def rows(values: list[Any] | None) -> list[Any] | None:
            """Those that are kept."""
            return None if values is None else [values[row] for row in kept]

        logits = None if self.mask_logits is None else take(self.mask_logits, kept)
        return replace(
            self,
            regions=[self.regions[row] for row in kept],
            phrases=rows(self.phrases),
            captions=rows(self.captions),
            truncated=rows(self.truncated),
            mask_logits=logits,
            masks=rows(self.masks),
            answers=answers,
        )


def weighted_sum(
    parts: Mapping[str, tuple[float, torch.Tensor]],
    over: Mapping[str, Over] | None = None,
    counts: Mapping[Over, int] | None = None,
    by_entry: Mapping[tuple[str, Kind], tuple[torch.Tensor, int]] | None = None,
) -> LoopOutput:
    """Losses with their weights, by name → their sum; each is logged as it is. The rest: see LoopOutput."""
    loss = weighed(list(parts.values()))
    logs = {"loss": loss.detach(), **{name: value.detach() for name, (_, value) in parts.items()}}
    return LoopOutput(loss, logs, parts, over or {}, counts or {}, by_entry or {})


def weighed(parts: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """The sum of (weight, value), of one at least; those without weight cost no backward."""
    terms = [weight * value for weight, value in parts if weight]
    return torch.stack(terms or [0.0 * value for _, value in parts]).sum()
