"""Loops that fail on purpose, at some calls of one rank; a run takes them by `_target_`, trusting `tests`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import Ask, StepContext
from maskcap.loops.dialogue import Dialogue
from maskcap.loops.outputs import LoopOutput
from maskcap.loops.prompt_to_mask import PromptToMask, mask_boxes
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.ranks import this_rank

TRUSTED = "trusted_targets=[tests]"


def prompts_only(target: str, *settings: str) -> list[str]:
    """Overrides: the one loop of a run is this class of this file."""
    key = "loops.prompt_to_mask"
    name = f"{key}._target_=tests.training.faults.broken.{target}"
    return ["loops=prompt_to_mask", TRUSTED, "optimized_metric=null", name, *(f"+{key}.{each}" for each in settings)]


class _BadBackward(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * torch.nan


class _Faulty(PromptToMask, ABC):
    """prompt → mask with a fault in the calls `first` to `last` of rank `rank`."""

    def __init__(
        self,
        rank: int = 1,
        first: int = 3,
        last: int = 3,
        weight: float = 1.0,
        ce_weight: float = 2.0,
        dice_weight: float = 0.5,
        box_jitter: float = 0.0,
        sampled_points: int | None = None,
    ) -> None:
        super().__init__(weight, ce_weight, dice_weight, box_jitter, sampled_points)
        self.rank, self.first, self.last, self.calls = rank, first, last, 0

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """As its parent; `fault` changes what it finishes with."""
        asked = super().ask(model, batch, context)
        self.calls += 1
        if this_rank() != self.rank or not self.first <= self.calls <= self.last:
            return asked
        return replace(asked, finish=lambda reading: self.fault(asked.finish(reading), batch))

    @abstractmethod
    def fault(self, output: LoopOutput, batch: Batch) -> LoopOutput:
        """What becomes of the step."""


class BadLoss(_Faulty):
    """The loss is not a number."""

    def fault(self, output: LoopOutput, batch: Batch) -> LoopOutput:
        """All parts × NaN."""
        parts = {name: (weight, value * torch.nan) for name, (weight, value) in output.parts.items()}
        return replace(output, loss=output.loss * torch.nan, parts=parts)


class BadGradient(_Faulty):
    """The loss is finite, its gradient is not a number."""

    def fault(self, output: LoopOutput, batch: Batch) -> LoopOutput:
        """The same values, with another backward."""
        parts = {name: (weight, _bad(value)) for name, (weight, value) in output.parts.items()}
        return replace(output, loss=_bad(output.loss), parts=parts)


class NoMemory(_Faulty):
    """Out of memory for more than `fit` regions at a time, in the forward, or in the backward alone.

    Prompts are exact boxes: nothing is drawn, so that parts learn what the whole does.
    """

    def __init__(
        self,
        rank: int = 1,
        first: int = 1,
        last: int = 999,
        fit: int = 1,
        in_backward: bool = False,
        weight: float = 1.0,
        ce_weight: float = 2.0,
        dice_weight: float = 0.5,
        box_jitter: float = 0.0,
        sampled_points: int | None = None,
    ) -> None:
        super().__init__(rank, first, last, weight, ce_weight, dice_weight, box_jitter, sampled_points)
        self.fit, self.in_backward = fit, in_backward

    def _logits(
        self, model: MaskCaptionModel, masks: torch.Tensor, region_image: torch.Tensor, context: StepContext
    ) -> torch.Tensor:
        sparse = model.segmenter.embed_boxes(mask_boxes(masks))
        return model.segmenter.decode(context.encoded.segmenter, region_image, sparse)

    def fault(self, output: LoopOutput, batch: Batch) -> LoopOutput:
        """As torch raises it."""
        if len(batch.region_ids) <= self.fit:
            return output
        return _full(output, self.in_backward)


@dataclass(eq=False)
class NoRoomToTalk(Dialogue):
    """Out of memory for more than `fit` samples at a time, in the forward, or in the backward alone."""

    fit: int = 1
    in_backward: bool = False

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """As its parent; what it finishes with does not fit."""
        asked = super().ask(model, batch, context)
        if len(batch.keys) <= self.fit:
            return asked
        return replace(asked, finish=lambda reading: _full(asked.finish(reading), self.in_backward))


class _FullBackward(torch.autograd.Function):
    """The identity, whose backward does not fit."""

    @staticmethod
    def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        raise torch.OutOfMemoryError("injected")


def _full(output: LoopOutput, in_backward: bool) -> LoopOutput:
    if not in_backward:
        raise torch.OutOfMemoryError("injected")
    parts = {name: (weight, _no_room(value)) for name, (weight, value) in output.parts.items()}
    return replace(output, loss=_no_room(output.loss), parts=parts)


def _no_room(value: torch.Tensor) -> torch.Tensor:
    return _FullBackward.apply(value)  # type: ignore[return-value]


def _bad(value: torch.Tensor) -> torch.Tensor:
    return _BadBackward.apply(value)  # type: ignore[return-value]
