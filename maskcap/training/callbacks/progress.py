"""The progress bar: losses, learning rate and speed; a log line now and then where there is no terminal."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

log = logging.getLogger(__name__)

SHORT_NAMES = {"mask_to_caption": "caption", "caption_to_mask": "mask", "prompt_to_mask": "prompt"}
_MAIN_SCORES = (
    *("val/miou", "val/ciou", "val/no_target_accuracy", "val/caption_exact", "val/caption_f1", "val/answer_exact"),
    *("val/answer_f1", "val/gcg_phrase_recall", "val/gcg_miou", "val/cycle_miou", "val/cross_frame_miou"),
)
_FEW = 4  # of the scores of other sets, where the one called main has none


class RichBars(RichProgressBar):
    """Lightning's rich progress bar with every `train/<loop>/loss` under a short name, the learning rate, and what the
    Throughput callback has told last: regions a second, and MFU where it is known.

    Where the output is no terminal (a file, a pipe, a batch job) no bar is drawn; rank 0 logs one line every
    `log_every` optimiser steps and one after each validation, at level INFO of this module's logger.

    log_every:     in optimiser steps, 1 or more.
    refresh_rate:  redraws a second. Losses are read from the device at most twice a second, as reading waits for it.
    console_kwargs: of `rich.console.Console`.
    """

    def __init__(
        self,
        log_every: int = 50,
        refresh_rate: int = 10,
        leave: bool = False,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave, console_kwargs=console_kwargs)
        if log_every < 1:
            raise ValueError(f"RichBars(log_every={log_every}): must be 1 or more")
        self.log_every = log_every
        console = Console(**(console_kwargs or {}))
        self._terminal = console.is_terminal or console.is_jupyter
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0
        self._last_line = (0, 0.0)  # optimiser step and time of the last log line

    @property
    def is_enabled(self) -> bool:
        """Whether there is a bar: in a terminal alone."""
        return self._terminal and super().is_enabled

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar: short names and values, at most half a second old."""
        now = time.monotonic()
        if "loss" not in self._shown or now - self._shown_at > 0.5:
            self._shown, self._shown_at = training_numbers(trainer), now
        return self._shown

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Speed is measured from here."""
        super().on_train_start(trainer, pl_module)
        self._last_line = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or logs a line every `log_every` steps."""
        if self._terminal:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            return
        step = trainer.global_step
        before, then = self._last_line
        # With gradient accumulation several batches end at one step: only the first of them logs.
        if not trainer.is_global_zero or step == before or step % self.log_every:
            return
        now = time.monotonic()
        numbers = "  ".join(f"{name} {_text(value)}" for name, value in training_numbers(trainer).items())
        total = "" if trainer.estimated_stepping_batches == float("inf") else f"/{trainer.estimated_stepping_batches}"
        speed = (step - before) / max(now - then, 1e-9)
        log.info("step %d%s  epoch %d  %s  %.2f steps/s", step, total, trainer.current_epoch, numbers, speed)
        self._last_line = (step, now)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the bar, or logs the scores in one line."""
        super().on_validation_end(trainer, pl_module)
        if self._terminal or trainer.sanity_checking or not trainer.is_global_zero:
            return
        scores = trainer.callback_metrics
        shown = [name for name in _MAIN_SCORES if name in scores]
        shown = shown or [name for name in scores if name.startswith("val/")][:_FEW]
        numbers = "  ".join(f"{name} {float(scores[name]):.3f}" for name in shown)
        log.info("step %d  validation  %s", trainer.global_step, numbers)


def training_numbers(trainer: pl.Trainer) -> dict[str, Any]:
    """`loss`, one entry a loop, and as text `lr` of the first parameter group, `regions/s` and `mfu`; each where it is
    known. Reading waits for the device."""
    numbers: dict[str, Any] = {}
    metrics = trainer.callback_metrics
    for name, value in metrics.items():
        parts = name.removesuffix("_step").split("/")
        if parts == ["train", "loss"]:
            numbers["loss"] = float(value)
        elif len(parts) == 3 and parts[0] == "train" and parts[2] == "loss":
            numbers[SHORT_NAMES.get(parts[1], parts[1])] = float(value)
    if trainer.optimizers:
        numbers["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}"
    if (regions := metrics.get("throughput/regions_per_s")) is not None:
        numbers["regions/s"] = f"{float(regions):.1f}"
    if (mfu := metrics.get("throughput/mfu")) is not None:
        numbers["mfu"] = f"{float(mfu):.1%}"
    return numbers


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
