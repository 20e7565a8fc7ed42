"""What every loop shares: its contract, what it is told about the step, what it gives back.

Shapes: R regions of the batch, r of them that the loop can use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from maskcap.models.transfer import take

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segments import Questions

Need: TypeAlias = Literal["captions", "phrases"]
Score: TypeAlias = Literal["phrases", "prompts", "cycle", "cross_frame"]


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


@dataclass(frozen=True)
class Ask:
    """A loop's step in two halves: what it asks of the language model (None: nothing), and what it makes of the
    reading. Between them the questions of all loops are read together."""

    finish: Callable[[Reading | None], LoopOutput]
    questions: Questions | None = None


class Loop(ABC):
    """A loop: weight in the step's loss, a loss, a prediction, and which words it needs of the data.

    weight: 0: the loop takes part in validation alone.
    needs: "captions" of any kind, "phrases" that single a region out, or None.
    generates: whether predict writes captions: validation then honours describe_sets.
    """

    weight: float
    needs: Need | None
    generates: bool = False

    @property
    def wordless(self) -> bool:
        """Whether it learns from regions without captions alone."""
        return False

    def check(self, model: MaskCaptionModel) -> None:  # noqa: B027 (most loops need nothing more)
        """Asked once before a fit. Raises ConfigError where the model lacks what the loop needs."""

    def regions_of(self, batch: Batch, progress: float) -> list[int]:
        """The batch's regions that the loop learns from at this share of the run: images without any are not encoded.

        Of the words that it needs; a loop that goes by more than that says so itself.
        """
        words = {None: batch.region_ids, "captions": batch.caption, "phrases": batch.phrase}[self.needs]
        return [region for region, word in enumerate(words) if word is not None]

    @abstractmethod
    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """The loop's loss on a training batch, up to the language model's reading and from there."""

    @abstractmethod
    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """The loop's predictions on a validation batch, without gradient."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's weights: tensors and plain values, which any checkpoint holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most loops have nothing to take back)
        """Takes back what `state_dict` gave; not called where that was empty."""

    def __call__(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> LoopOutput:
        """The loop's loss on a training batch, with a reading of its own."""
        return run_loops(model, {"": self}, batch, context)[""]


def run_loops(
    model: MaskCaptionModel, loops: Mapping[str, Loop], batch: Batch, context: StepContext
) -> dict[str, LoopOutput]:
    """One step of all loops, by name: each image is encoded once, the language model runs once over all segments."""
    asks = {name: loop.ask(model, batch, context) for name, loop in loops.items()}
    asked = {name: ask.questions for name, ask in asks.items() if ask.questions is not None}
    readings = dict(zip(asked, model.read(context.encoded, list(asked.values())), strict=True)) if asked else {}
    return {name: ask.finish(readings.get(name)) for name, ask in asks.items()}


def nothing_to_learn(model: MaskCaptionModel) -> Ask:
    """A zero with a graph, for a batch without any region that the loop can use: no rank waits for another."""
    return Ask(lambda _: LoopOutput(model.region_marker.sum() * 0.0, {}))


def weighted_sum(parts: Mapping[str, tuple[float, torch.Tensor]]) -> LoopOutput:
    """Losses with their weights, by name → their sum; each is logged as it is."""
    weighed = [weight * value for weight, value in parts.values() if weight]  # the others cost no backward
    loss = torch.stack(weighed or [0.0 * value for _, value in parts.values()]).sum()
    return LoopOutput(loss, {"loss": loss.detach(), **{name: value.detach() for name, (_, value) in parts.items()}})
