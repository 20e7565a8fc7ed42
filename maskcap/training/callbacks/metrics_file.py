"""metrics.json after every validation, curves.png at the end of a fit."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from maskcap.durable import replacing, where_there_is_room, write_whole
from maskcap.training.callbacks.position import LoadedPosition

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


class MetricsFile(pl.Callback):
    """Writes `<run folder>/metrics.json`, flat: every logged `val/…` in alphabetical order, then `step`, `epoch`,
    `train_seconds` (since the fit began, over resumes, without validation) and `val_seconds` (the last validation).

    Times are the only entries that differ between two runs of one seed. The file is replaced in one move, so a reader
    never sees half of it. A metric that is not finite is written as null and named in a warning. With a CSVLogger,
    `curves.png` shows the run's curves at its end. Only rank 0 writes; the sanity check is passed over. Outside of a
    fit, `step` and `epoch` are the loaded checkpoint's.
    """

    def __init__(self) -> None:
        self._train_seconds = 0.0  # of earlier stretches: before a resume, before the validation that runs now
        self._stretch_began: float | None = None
        self._validation_began = 0.0
        self._loaded = LoadedPosition()

    def state_dict(self) -> dict[str, Any]:
        """The training time so far, so that it goes on after a resume."""
        return {"train_seconds": self._trained()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the checkpoint's training time."""
        self._train_seconds = float(state_dict["train_seconds"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the position, for an evaluation."""
        self._loaded = LoadedPosition.of(checkpoint)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of training runs from here."""
        self._stretch_began = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of training stops, that of validation runs."""
        self._train_seconds, self._stretch_began = self._trained(), None
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The trainer has the validation's metrics by now, those logged by other callbacks included."""
        now = time.monotonic()
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit":
            self._stretch_began = now
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        step, epoch = self._loaded.position(trainer)
        metrics = {
            **dict(sorted(metrics.items())),
            "step": step,
            "epoch": epoch,
            "train_seconds": round(self._train_seconds, 3),
            "val_seconds": round(now - self._validation_began, 3),
        }
        path = Path(trainer.default_root_dir) / "metrics.json"
        with where_there_is_room(path):
            write_metrics(metrics, path)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws curves.png from the CSV logger's file, where there is one."""
        self._train_seconds, self._stretch_began = self._trained(), None
        if trainer.is_global_zero and (metrics_csv := _flushed_csv(trainer.loggers)) is not None:
            from PIL import Image

            from maskcap.reports.curves import curves_figure
            from maskcap.reports.figures import figure_to_array

            pixels = figure_to_array(curves_figure(metrics_csv))
            path = Path(trainer.default_root_dir) / "curves.png"
            with where_there_is_room(path), replacing(path) as unfinished:
                Image.fromarray(pixels).save(unfinished, format="PNG")

    def _trained(self) -> float:
        running = 0.0 if self._stretch_began is None else time.monotonic() - self._stretch_began
        return self._train_seconds + running


def write_metrics(metrics: dict[str, float], path: Path) -> None:
    """Write flat JSON in this order, replacing `path` in one move; NaN and infinity become null and are warned of."""
    lost = [name for name, value in metrics.items() if not math.isfinite(value)]
    if lost:
        log.warning("%s: not finite, written as null: %s", path, ", ".join(lost))
    content = {name: None if name in lost else value for name, value in metrics.items()}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _flushed_csv(loggers: list[Logger]) -> Path | None:
    """The file of the first CSVLogger with everything logged so far in it; None without one, or without content."""
    for logger in loggers:
        if "CSVLogger" in {base.__name__ for base in type(logger).__mro__}:
            logger.save()  # Lightning itself does so only after this hook
            path = Path(str(logger.log_dir)) / "metrics.csv"
            return path if path.is_file() else None
    return None
