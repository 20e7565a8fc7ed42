"""The part of the Lightning module that keeps faults away from the weights: hooks around backward and the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import nn

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.outputs import LoopOutput
from maskcap.training.faults.gradients import Gradients, add_gradients
from maskcap.training.faults.memory import OnOutOfMemory, batch_named
from maskcap.training.faults.nonfinite import NonFiniteGuard, OnNonFinite, gradient_norm
from maskcap.training.strategies import is_sharded


class GuardedSteps(L.LightningModule):
    """A module whose steps are checked once an optimizer step, after the gradients of all ranks were averaged.

    on_out_of_memory: "raise" names the batch, "split" makes the step again in parts (see faults/splitting.py; gradients
    are then averaged after the backward instead of during it, which costs several ranks some time at every step).
    on_nonfinite, max_nonfinite: see NonFiniteGuard; bad steps are written to `<run folder>/nonfinite.jsonl`. Logs
    `train/grad_norm`, of the gradients before they are clipped. Lightning counts a skipped step, and the scheduler
    goes on, as if it had been made. With precision 16-mixed the scaler skips steps whose gradients overflow, as it
    does to find its scale; only losses are then looked at.
    """

    def __init__(self, on_nonfinite: OnNonFinite, max_nonfinite: int, on_out_of_memory: OnOutOfMemory) -> None:
        super().__init__()
        self.nonfinite = NonFiniteGuard(on_nonfinite, max_nonfinite)
        self.splits = on_out_of_memory == "split"
        self._current: Batch | None = None  # of the step that runs
        self._gradients: Gradients | None = None  # of a step that has made its own backward

    def check_faults(self) -> None:
        """Before a fit. Raises ConfigError where steps cannot be split: sharded weights are gathered by all ranks in
        every forward, also in those that a rank without memory makes by itself."""
        if self.splits and is_sharded(self.trainer):
            raise ConfigError(
                "module.on_out_of_memory=split does not go with sharded weights (FSDP): use raise, or DDP"
            )

    def begin_step(self, batch: Batch, gradients: Gradients | None = None) -> None:
        """The batch that the step is about; gradients: its own backward's, which `backward` then takes over."""
        self._current, self._gradients = batch, gradients

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook: a split step has made its own. Raises OutOfMemory, with the batch's samples."""
        if self._gradients is not None:
            add_gradients([p for p in self.parameters() if p.requires_grad], self._gradients)
            self._gradients = None
            return
        with batch_named(self._current):
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Lightning's hook around a step: DDP leaves the gradients of split steps alone, which average them."""
        strategy = self.trainer.strategy
        alone = (
            strategy.block_backward_sync() if self.splits and isinstance(strategy, ParallelStrategy) else nullcontext()
        )
        with batch_named(self._current), alone:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's hook before every optimizer step, also without clipping: looks at loss and gradients, then clips.

        Raises NonFiniteError.
        """
        norm = gradient_norm(_trained(optimizer))
        if norm is not None:
            self.log("train/grad_norm", norm, batch_size=1)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        file = Path(self.trainer.default_root_dir) / "nonfinite.jsonl"
        if not self.nonfinite.keeps(
            None if scaled else norm, dict(self.named_parameters()), step=self.global_step, file=file
        ):
            optimizer.zero_grad(set_to_none=True)  # AdamW passes over parameters without one, its own state too
            return
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(_trained(optimizer), gradient_clip_val, norm)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def note_batch(self, keys: Sequence[str], loss: torch.Tensor, outputs: Mapping[str, LoopOutput]) -> None:
        """Tell the guard of a batch of this step, with the loops' outputs by name. Waits for nothing."""
        parts = {f"{name}/{part}": value for name, output in outputs.items() for part, value in output.logs.items()}
        self.nonfinite.note(keys, loss.detach(), parts)


def _trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    groups: list[dict[str, Any]] = optimizer.param_groups
    return [parameter for group in groups for parameter in group["params"]]
