"""What a loop gives back: of a training step its loss, and what each part of it is a mean over; its predictions.

Shapes: R regions of the batch, r of them that the loop can use, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch

from maskcap.models.transfer import take

Over: TypeAlias = Literal["regions", "answers", "spoken", "tokens"]
Score: TypeAlias = Literal["phrases", "prompts", "cycle", "cross_frame"]
OVER: tuple[Over, ...] = ("regions", "answers", "spoken", "tokens")


@dataclass(frozen=True)
class LoopOutput:
    """`loss`: scalar with gradient, the loop's weight not yet applied. `logs`: detached scalars by name.

    For several ranks, whose batches are of different sizes: parts: what the loss is the sum of, (weight, value) by
    name. over: what each part, and each log beside them, is a mean over; a log that is in neither is a number of this
    batch, and the ranks' are added. counts: how many of each this rank's are over. A loop that leaves `counts` out
    weighs every rank alike.
    """

    loss: torch.Tensor
    logs: dict[str, torch.Tensor]
    parts: Mapping[str, tuple[float, torch.Tensor]] = field(default_factory=dict)
    over: Mapping[str, Over] = field(default_factory=dict)
    counts: Mapping[Over, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LoopPrediction:
    """What a loop says of a validation batch about its `regions` (indices into R, repeated where several phrases mean
    one): captions and whether each was cut for length, mask logits float (r, M, M), with the phrases that asked for
    them, if words did; or both.

    score: what asked for the masks, hence which metrics they count in: the data's `phrases`, `prompts` (points, boxes),
      `cycle` (captions that the model wrote itself), `cross_frame` (these too, but masks of image2, scored by mask2).
    """

    regions: list[int]
    phrases: list[str] | None = None
    captions: list[str] | None = None
    truncated: list[bool] | None = None
    mask_logits: torch.Tensor | None = None
    score: Score = "phrases"

    def without(self, regions: set[int]) -> LoopPrediction:
        """The same of all other regions."""
        kept = [row for row, region in enumerate(self.regions) if region not in regions]
        if len(kept) == len(self.regions):
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
        )


def weighted_sum(
    parts: Mapping[str, tuple[float, torch.Tensor]],
    over: Mapping[str, Over] | None = None,
    counts: Mapping[Over, int] | None = None,
) -> LoopOutput:
    """Losses with their weights, by name → their sum; each is logged as it is. over, counts: see LoopOutput."""
    loss = weighed(list(parts.values()))
    logs = {"loss": loss.detach(), **{name: value.detach() for name, (_, value) in parts.items()}}
    return LoopOutput(loss, logs, parts, over or {}, counts or {})


def weighed(parts: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """The sum of (weight, value), of one at least; those without weight cost no backward."""
    terms = [weight * value for weight, value in parts if weight]
    return torch.stack(terms or [0.0 * value for _, value in parts]).sum()
