"""Callbacks that tests put into a run by `+callbacks.x._target_=tests.training.interruptions.…`, and its weights."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from maskcap.training.checkpoints.reading import read_checkpoint


class Interrupt(pl.Callback):
    """Sends the process `number` in optimiser step `step` (from 1) of the run, at the hook `at`.

    at: `setup` of the run, `backward` in the middle of the step, `group` the same for the process and its children,
    `validation` in one that follows on the step. rank: None for all of them.
    """

    def __init__(self, number: int, step: int, at: str = "backward", rank: int | None = None) -> None:
        self.number, self.step, self.at, self.rank = number, step, at, rank

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._send("setup", trainer)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step + 1 == self.step:
            for child in multiprocessing.active_children() if self.at == "group" else ():
                os.kill(child.pid or 0, self.number)
            self._send("backward", trainer)
            self._send("group", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self._send("validation", trainer)

    def _send(self, at: str, trainer: pl.Trainer) -> None:
        if at == self.at and self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), self.number)


class Hooks(pl.Callback):
    """Prints a line for each hook of interest, with the optimiser step, on rank 0."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        handlers = {signal.getsignal(number).__class__.__name__ for number in (signal.SIGTERM, signal.SIGUSR1)}
        self._say(trainer, f"handlers {' '.join(sorted(handlers))}")

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        self._say(trainer, "batch")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "validated")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "epoch")

    def _say(self, trainer: pl.Trainer, what: str) -> None:
        if trainer.is_global_zero:
            print(f"hook {what} {trainer.global_step}", flush=True)


def interrupt(number: int, step: int, at: str = "backward", rank: int | None = None) -> list[str]:
    """Overrides that put an `Interrupt` into a run."""
    target = "+callbacks.interrupt._target_=tests.training.interruptions.Interrupt"
    values = {"number": int(number), "step": step, "at": at, "rank": "null" if rank is None else rank}
    return [
        "trusted_targets=[tests]",
        target,
        *(f"+callbacks.interrupt.{key}={value}" for key, value in values.items()),
    ]


def weights_of(run: Path) -> str:
    """sha256 of the weights in a run's last checkpoint, names included."""
    hashed = hashlib.sha256()
    state: Mapping[str, torch.Tensor] = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    for name in sorted(state):
        hashed.update(name.encode())
        hashed.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def hooks_in(output: Path) -> list[str]:
    """What `Hooks` printed, in order."""
    lines = (output / "rank0.txt").read_text().splitlines()
    return [line.removeprefix("hook ") for line in lines if line.startswith("hook ")]


class Slow(pl.Callback):
    """Every batch takes `seconds` longer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        time.sleep(self.seconds)
