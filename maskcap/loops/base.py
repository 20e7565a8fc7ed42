"""What every loop shares: its contract, what it is told about the step, what it gives back.

Shapes: R regions of the batch, r of them that the loop can use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch

from maskcap.models.transfer import to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.mask_caption import EncodedImages, MaskCaptionModel

Need: TypeAlias = Literal["captions", "phrases"]


@dataclass(frozen=True)
class Curriculum:
    """What a model without pretraining needs to start; shares of the whole run, all off by default.

    image_tokens_from: until then prompts leave the image's tokens out: on the drawn scenes a random model's captions
      stalled with 64–256 image tokens before the region's own, and leaving them out for the first third cured it.
    image_token_dropout: after that, chance that a step leaves them out; with image tokens in every prompt from the
      start, place words were ignored. segmenter_from: until then caption → mask trains the grounding map only, which
      made a step cost .17 instead of .45 CPU seconds.
    """

    image_tokens_from: float = 0.0
    image_token_dropout: float = 0.0
    segmenter_from: float = 0.0


@dataclass(frozen=True)
class StepContext:
    """One step: the images' lazy encodings, the share of the run done (0..1) and the step's own random numbers.

    generator: for decisions that all ranks take alike, since they change which parameters take part. noise_generator:
    for noise, which each rank draws for itself; None: the same one.
    """

    encoded: EncodedImages
    progress: float = 1.0
    curriculum: Curriculum = field(default_factory=Curriculum)
    generator: torch.Generator = field(default_factory=torch.Generator)
    noise_generator: torch.Generator | None = None

    @property
    def noise(self) -> torch.Generator:
        """Where this rank's noise comes from."""
        return self.generator if self.noise_generator is None else self.noise_generator

    def keep_image(self) -> bool:
        """Whether this step's prompts hold the image's tokens; draws from the step's generator."""
        draw = torch.rand((), generator=self.generator).item()
        return self.progress >= self.curriculum.image_tokens_from and draw >= self.curriculum.image_token_dropout

    @property
    def use_segmenter(self) -> bool:
        """Whether SAM2 takes part in this step."""
        return self.progress >= self.curriculum.segmenter_from


@dataclass(frozen=True)
class LoopOutput:
    """`loss`: scalar with gradient, the loop's weight not yet applied. `logs`: detached scalars by name."""

    loss: torch.Tensor
    logs: dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoopPrediction:
    """What a loop says of a validation batch about its `regions` (indices into R, repeated where several phrases mean
    one): captions and whether each was cut for length, or mask logits float (r, M, M), with the phrases that asked for
    them, if words did."""

    regions: list[int]
    phrases: list[str] | None = None
    captions: list[str] | None = None
    truncated: list[bool] | None = None
    mask_logits: torch.Tensor | None = None

    def without(self, regions: set[int]) -> LoopPrediction:
        """The same of all other regions."""
        kept = [row for row, region in enumerate(self.regions) if region not in regions]
        if len(kept) == len(self.regions):
            return self

        def rows(values: list[Any] | None) -> list[Any] | None:
            return None if values is None else [values[row] for row in kept]

        logits = None if self.mask_logits is None else take(self.mask_logits, kept)
        return LoopPrediction(
            [self.regions[row] for row in kept], rows(self.phrases), rows(self.captions), rows(self.truncated), logits
        )


class Loop(Protocol):
    """A loop: weight in the step's loss, a loss, a prediction, and which words it needs of the data.

    needs: "captions" of any kind, "phrases" that single a region out, or None.
    """

    weight: float
    needs: Need | None

    def __call__(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> LoopOutput:
        """The loop's loss on a training batch."""
        ...

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """The loop's predictions on a validation batch, without gradient."""
        ...


def nothing_to_learn(model: MaskCaptionModel) -> LoopOutput:
    """A zero with a graph, for a batch without any region that the loop can use: no rank waits for another."""
    return LoopOutput(model.region_marker.sum() * 0.0, {})


def take(rows: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """Rows by host indices; the tensor itself when they are all rows in order."""
    if indices == list(range(rows.shape[0])):
        return rows
    return rows.index_select(0, to_device([torch.tensor(indices, dtype=torch.int64)], rows.device)[0])
