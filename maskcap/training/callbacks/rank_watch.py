"""Several ranks: one that dies, stops or sticks ends the run within a set time, and is named."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from maskcap.errors import ConfigError
from maskcap.training.callbacks.run_record import record_end
from maskcap.training.ranks import gather_objects
from maskcap.training.watch.ending import comes_from_another_rank, end_process
from maskcap.training.watch.state import Failure, RankState
from maskcap.training.watch.watch import Timeouts, Watch

FILE = "failure.json"
_VERDICT = 15.0  # seconds to wait for the culprit's name, when a collective has broken


class RankWatch(pl.Callback):
    """A thread on each rank that says every `beat` seconds where the rank is, and listens to the others; none alone.

    rank_timeout: seconds of silence after which a rank counts as stopped, or its machine as lost. A killed one is seen
    at once, and one that fails by an error of its own ends the others `grace` seconds later. stall_timeout: seconds
    without a batch, a validation batch or a checkpoint, after which a rank counts as stuck: longer than the longest
    scoring of a validation. The culprit's rank, host, pid, step and place are in the log and in
    `<run folder>/failure.json`, and in run.json where rank 0 lives; every live rank leaves with code 3.
    Raises ConfigError for times that do not go together.
    """

    def __init__(
        self, rank_timeout: float = 60.0, stall_timeout: float = 1800.0, beat: float = 2.0, grace: float = 10.0
    ) -> None:
        if not 0 < 2 * beat <= rank_timeout <= stall_timeout:
            raise ConfigError(
                f"callbacks.rank_watch: beat={beat:g}, rank_timeout={rank_timeout:g}, stall_timeout={stall_timeout:g}: "
                "rank_timeout must be two beats at least, and stall_timeout no shorter than it"
            )
        self._timeouts = Timeouts(beat, rank_timeout, stall_timeout, grace)
        self._watch: Watch | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begins, on every rank; a failure.json of an earlier attempt goes."""
        if trainer.world_size == 1 or self._watch is not None:
            return
        file = Path(trainer.default_root_dir) / FILE
        note = functools.partial(_note_in_record, file.parent) if trainer.is_global_zero else None
        state, end = RankState(trainer.global_rank), functools.partial(end_process, file=file, note=note)
        watch = Watch(state, self._timeouts, end) if trainer.is_global_zero else None
        if watch is not None:
            file.unlink(missing_ok=True)
        address = gather_objects(watch and watch.address)[0]
        self._watch = watch or Watch(state, self._timeouts, end, address)
        self._watch.meet(gather_objects(state))
        self._watch.start()
        self._tick(trainer, "setup")

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of progress, as in all hooks that follow."""
        self._tick(trainer, "setup")

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The next batch is to be loaded."""
        self._tick(trainer, "loading of training data")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The batch is there."""
        self._tick(trainer, "training step")

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        """The backward is over."""
        self._tick(trainer, "optimizer step")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The next batch is to be loaded."""
        self._tick(trainer, "loading of training data")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The batch is there."""
        self._tick(trainer, "validation step")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The next batch is to be loaded, or the predictions to be scored."""
        self._tick(trainer, "validation")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Scored."""
        self._tick(trainer, "end of validation")

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """As for validation."""
        self._tick(trainer, "test")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """A checkpoint is gathered and written."""
        self._tick(trainer, "saving of a checkpoint")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The others are told. Of a collective that broke, the culprit's name is waited for: it ends this process."""
        if self._watch is None:
            return
        if comes_from_another_rank(exception):
            self._watch.join(_VERDICT)
        self._leave(None if isinstance(exception, SystemExit) else exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The rank leaves in good order."""
        self._leave(None)

    def _leave(self, error: BaseException | None) -> None:
        if self._watch is not None:
            self._watch.leave(error)
            self._watch = None

    def _tick(self, trainer: pl.Trainer, doing: str) -> None:
        if self._watch is not None:
            self._watch.state.tick(doing, trainer.global_step)


def _note_in_record(run: Path, failure: Failure) -> None:
    record_end(run, f"rank {failure.state.rank} {failure.fault}")
