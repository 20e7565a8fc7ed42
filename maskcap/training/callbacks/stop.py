"""last.ckpt now and then, before validations, and when the run is asked to stop, which it then does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from maskcap.errors import ConfigError
from maskcap.training.lightning_loops import (
    is_inside_a_step,
    is_validation_due,
    leave_signals_alone,
    one_step_more,
    restart_validation,
)
from maskcap.training.ranks import sum_over_ranks, world_size
from maskcap.training.slurm import SlurmJob, requeue, this_job, was_cancelled
from maskcap.training.stop_signals import STOP_SIGNALS, Stopped, noted_stop_signals

log = logging.getLogger(__name__)


class StopAtStep(Checkpoint):
    """Saves `<dirpath>/last.ckpt` every so many minutes and before each validation; on SIGTERM, SIGUSR1 or SIGUSR2 to
    any rank saves it at the end of the optimiser step, and every rank ends (`Stopped`: exit code 128 + signal).

    A run that goes on from there ends with the weights of one that nobody stopped. With gradient accumulation a step
    ends with its last batch: a validation in the middle of one saves nothing here, and is not left. A validation that
    was interrupted runs again from its beginning; one that a signal comes in is left at once. In a Slurm
    job rank 0 has the job started again, unless somebody cancelled it.

    Ranks agree once a step, by one all-reduce of a few numbers, which waits for the device; alone nothing is waited
    for. Lightning's own handlers of these signals are kept out. Runs after all other callbacks, as Lightning orders
    every `Checkpoint`.

    every_minutes: 0 is after every step, None never. max_requeues: starts that a job may have again, so that one that
    gets nowhere ends. clock: seconds, for tests. Raises ConfigError for numbers below 0.
    """

    def __init__(
        self,
        dirpath: str,
        every_minutes: float | None = 30,
        before_validation: bool = True,
        max_requeues: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        for name, value in (("every_minutes", every_minutes), ("max_requeues", max_requeues)):
            if value is not None and value < 0:
                raise ConfigError(f"callbacks.stop.{name}={value}: must be 0 or more")
        self.file = Path(dirpath) / "last.ckpt"
        self.every_minutes = every_minutes
        self.before_validation = before_validation
        self.max_requeues = max_requeues
        self._clock = clock
        self._context = ExitStack()
        self._last_validation = ExitStack()
        self._pending = False  # whether what is saved now, or was loaded, stands before a validation
        self._forget()

    def _forget(self) -> None:
        self._signal: Signals | None = None  # that all ranks know of
        self._due = False
        self._step = self._saved = -1  # the last optimiser step that was looked at, that was saved
        self._saved_at = self._clock()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listens, where the command does not do so yet."""
        if stage == "fit":
            self._signals = self._context.enter_context(noted_stop_signals())
            leave_signals_alone(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Undoes `setup`."""
        self._last_validation.close()
        self._context.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As `teardown`, which Lightning then leaves out."""
        self._context.close()

    def state_dict(self) -> dict[str, Any]:
        """Whether the checkpoint stands before a validation that is still to run."""
        return {"validation_pending": self._pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers it until training starts."""
        self._pending = bool(state_dict.get("validation_pending"))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where the run's last validation is all that is left, sees to it that it runs."""
        own = checkpoint.get("callbacks", {}).get(self.state_key, {})
        at_its_end = trainer.max_steps == checkpoint["global_step"]
        if trainer.state.fn == "fit" and own.get("validation_pending") and at_its_end:
            self._last_validation.enter_context(one_step_more(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """That one is over."""
        self._last_validation.close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier fit; a signal that came while the run was being set up ends it here."""
        self._forget()
        self._step = trainer.global_step
        for logger in trainer.loggers:
            if (keep := getattr(logger, "keep_before", None)) is not None:
                keep(trainer.global_step)  # what was logged after the checkpoint comes again
        if self._pending:
            self._saved, self._pending = trainer.global_step, False
            restart_validation(trainer)
        self._agree(pl_module)
        if self._signal is not None:
            self._leave(trainer, self._signal, "before the first step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if it is time to, at a step's end; where a validation or the epoch's end follows, after that begins."""
        if trainer.global_step == self._step:
            return  # gradients accumulate
        self._step = trainer.global_step
        self._agree(pl_module)
        # A checkpoint made here says that the epoch, or the validation, is over.
        if self._wanted and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if not is_validation_due(trainer):
                self._save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The last step is saved and logged: leaves."""
        self._leave_if_saved(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As between two steps."""
        self._leave_if_saved(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what validation follows on, and leaves if it is time to."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or is_inside_a_step(trainer):
            return
        if (self.before_validation or self._wanted) and self._saved != trainer.global_step:
            self._save(trainer, before_validation=True)
        self._leave_if_saved(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves when a signal has come: what this validation follows on is saved."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._agree(pl_module)
        self._leave_if_saved(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if it is time to."""
        if self._wanted:
            self._save(trainer)

    @property
    def _wanted(self) -> bool:
        return self._due or self._signal is not None

    def _agree(self, pl_module: pl.LightningModule) -> None:
        """Every rank learns of every rank's signal, and of rank 0's clock."""
        minutes = self.every_minutes
        due = minutes is not None and self._clock() - self._saved_at >= 60 * minutes
        received = [self._signals.received == number for number in STOP_SIGNALS]
        if world_size() > 1:
            mine = [due and pl_module.global_rank == 0, *received]
            due, *received = sum_over_ranks(torch.tensor(mine, dtype=torch.int32, device=pl_module.device)).tolist()
        self._due = self._due or bool(due)
        first = [number for number, there in zip(STOP_SIGNALS, received, strict=True) if there]
        if self._signal is None and first:
            self._signal = first[0]

    def _save(self, trainer: pl.Trainer, before_validation: bool = False) -> None:
        self._pending = before_validation
        try:
            trainer.save_checkpoint(self.file)
        finally:
            self._pending = False
        self._saved, self._saved_at, self._due = trainer.global_step, self._clock(), False
        if self._failed(trainer) and self.every_minutes:
            self._saved_at -= 54 * self.every_minutes  # again after a tenth of the time

    def _leave_if_saved(self, trainer: pl.Trainer) -> None:
        if self._signal is not None and self._saved == trainer.global_step:
            lost = f"step {trainer.global_step} could NOT be saved, {self.file} is older or missing"
            kept = f"step {trainer.global_step} is in {self.file}"
            self._leave(trainer, self._signal, lost if self._failed(trainer) else kept)

    def _failed(self, trainer: pl.Trainer) -> bool:
        """Whether the last checkpoint of this process, rank 0's, could not be written."""
        return getattr(trainer.strategy.checkpoint_io, "last_error", None) is not None

    def _leave(self, trainer: pl.Trainer, received: Signals, where: str) -> None:
        """Raises Stopped; rank 0 has by then told Slurm to start the job again."""
        self._signals.received = received  # on every rank: a second signal must not kill one that is ending
        job = this_job()
        if trainer.is_global_zero:
            log.warning("stopped by %s: %s", received.name, where)
            if job is not None:
                self._start_again(job, received)
        trainer.strategy.barrier("stop")  # an srun whose first task has ended may end the job
        raise Stopped(received)

    def _start_again(self, job: SlurmJob, received: Signals) -> None:
        if job.restarts >= self.max_requeues:
            log.error("job %s is not started again: it was %d times (max_requeues)", job.name, job.restarts)
        elif received == SIGTERM and was_cancelled(job):
            log.warning("job %s was cancelled: it is not started again", job.name)
        elif (failure := requeue(job)) is not None:
            log.error("job %s could not be started again (%s): submit it again", job.name, failure)
        else:
            log.warning("job %s will be started again, in the same run folder", job.name)
