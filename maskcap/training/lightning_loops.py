"""The places where stopping and going on need what Lightning 2.6 keeps to itself; tests hold them in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
from lightning.pytorch.loops.evaluation_loop import RestartStage


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Lightning's own handling of SIGTERM and Slurm's signals does nothing in this trainer's next fits.

    It saves, and broadcasts to the other ranks, inside the handler; and asks rank 0 before every batch whether it
    came, an error of which it takes for no.
    """
    setattr(trainer._signal_connector, "register_signal_handlers", _nothing)  # noqa: B010
    setattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", _nothing)  # noqa: B010


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Whether a validation follows on the batch that ends now."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def restart_validation(trainer: pl.Trainer) -> None:
    """A resumed fit first runs the validation that its checkpoint stood before; call it when training starts.

    Lightning would take such a checkpoint for one made after the validation, and pass it over.
    """
    trainer.fit_loop.epoch_loop.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION


def is_inside_a_step(trainer: pl.Trainer) -> bool:
    """Whether gradients of the step are still to be accumulated."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


@contextmanager
def one_step_more(trainer: pl.Trainer) -> Iterator[None]:
    """For a resumed fit that has made its last step, and has the validation after it to run: with `max_steps` reached,
    Lightning would take it for finished."""
    loop = trainer.fit_loop.epoch_loop
    loop.max_steps += 1
    try:
        yield
    finally:
        loop.max_steps -= 1


def _nothing() -> None:
    pass
