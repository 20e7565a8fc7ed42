"""What every loop shares: its contract, what it is told about the step, what it gives back.

Shapes: R regions of the batch, r of them that the loop can use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from maskcap.loops.outputs import LoopOutput, LoopPrediction

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.loops.global_batch import GlobalBatch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segments import Questions

Need: TypeAlias = Literal["captions", "phrases", "turns"]


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
    for noise, which each rank draws for itself; None: the same one. ranks: the exchange between ranks; None: the means
    are over this rank's batch, as they are alone. by_entry: whether losses are wanted for each entry of the mixture.
    """

    encoded: EncodedImages
    progress: float = 1.0
    curriculum: Curriculum = field(default_factory=Curriculum)
    generator: torch.Generator = field(default_factory=torch.Generator)
    noise_generator: torch.Generator | None = None
    ranks: GlobalBatch | None = None
    by_entry: bool = False

    @property
    def noise(self) -> torch.Generator:
        """Where this rank's noise comes from."""
        return self.generator if self.noise_generator is None else self.noise_generator

    def keep_image(self) -> bool:
        """Whether this step's prompts hold the image's tokens; draws from the step's generator."""
        draw = torch.rand((), generator=self.generator).item()
        return self.progress >= self.curriculum.image_tokens_from and draw >= self.curriculum.image_token_dropout

    @property
    def stand_ins(self) -> bool:
        """Whether every rank must run the model, also one without anything to learn from."""
        return self.ranks is not None and self.ranks.stand_ins

    def or_stand_in(self, regions: list[int]) -> list[int]:
        """The regions of a loop; where there is none and every rank must run the model, the batch's first."""
        return regions or ([0] if self.stand_ins else [])

    @property
    def use_segmenter(self) -> bool:
        """Whether SAM2 takes part in this step."""
        return self.progress >= self.curriculum.segmenter_from


@dataclass(frozen=True)
class Ask:
    """A loop's step in two halves: what it asks of the language model (None: nothing), and what it makes of the
    reading. Between them the questions of all loops are read together."""

    finish: Callable[[Reading | None], LoopOutput]
    questions: Questions | None = None


class Loop(ABC):
    """A loop: weight in the step's loss, a loss, a prediction, and which words it needs of the data.

    weight: 0: the loop takes part in validation alone.
    needs: "captions" of any kind, "phrases" that single a region out, "turns" of a conversation, or None.
    generates: whether predict writes captions: validation then honours describe_sets.
    same_on_every_rank: whether a step runs the same layers on every rank, whatever the batch (`context.or_stand_in`):
      sharded weights need it.
    """

    weight: float
    needs: Need | None
    generates: bool = False
    same_on_every_rank: bool = False

    @property
    def wordless(self) -> bool:
        """Whether it learns from regions without captions alone."""
        return False

    def check(self, model: MaskCaptionModel) -> None:  # noqa: B027 (most loops need nothing more)
        """Asked once before a fit. Raises ConfigError where the model lacks what the loop needs."""

    def regions_of(self, batch: Batch, progress: float) -> list[int]:
        """The batch's regions that the loop learns from at this share of the run: images without any are not encoded.

        Of the words that it needs, or of all that are to be seen; a loop that goes by more than that says so itself.
        """
        if self.needs is None:
            return [region for region in range(len(batch.region_ids)) if not batch.is_empty(region)]
        words = batch.caption if self.needs == "captions" else batch.phrase
        return [region for region, word in enumerate(words) if word is not None]

    def images_of(self, batch: Batch, progress: float) -> list[int]:
        """The samples that the loop learns from at this share of the run: those of its regions."""
        return batch.images_of(self.regions_of(batch, progress))

    def contrasts(self, model: MaskCaptionModel, progress: float) -> bool:
        """Whether its step at this share of the run tells phrases from each other, on all ranks together."""
        return False

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
        """Takes back what `state_dict` gave; a checkpoint does not call it where that was empty."""

    def __call__(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> LoopOutput:
        """The loop's loss on a training batch, with a reading of its own."""
        return run_loops(model, {"": self}, batch, context)[""]


def run_loops(
    model: MaskCaptionModel, loops: Mapping[str, Loop], batch: Batch, context: StepContext
) -> dict[str, LoopOutput]:
    """One step of all loops, by name: each image is encoded once, the language model runs once over all segments.

    With `context.ranks` the losses are this rank's share in those of the global batch; every rank must make the step.
    """
    left, ranks = [loop.contrasts(model, context.progress) for loop in loops.values()], context.ranks
    if ranks is not None:
        ranks.begin(len(loops), sum(left))
    asks = {name: loop.ask(model, batch, context) for name, loop in loops.items()}
    asked = {name: ask.questions for name, ask in asks.items() if ask.questions is not None}
    readings = dict(zip(asked, model.read(context.encoded, list(asked.values())), strict=True)) if asked else {}
    outputs = {}
    for number, (name, ask) in enumerate(asks.items(), 1):
        outputs[name] = ask.finish(readings.get(name))
        if ranks is not None:
            ranks.settle(sum(left[number:]))
    if ranks is None:
        return outputs
    outputs = ranks.scaled(outputs)
    if ranks.stand_ins:  # sharded gradients are summed over ranks: one that used no region's tokens has its zeros too
        name, output = next(iter(outputs.items()))
        outputs[name] = replace(output, loss=output.loss + model.region_marker.sum() * 0.0)
    return outputs


def nothing_to_learn(model: MaskCaptionModel) -> Ask:
    """A zero with a graph, for a batch without any region that the loop can use: no rank waits for another."""
    return Ask(lambda _: LoopOutput(model.region_marker.sum() * 0.0, {}))
