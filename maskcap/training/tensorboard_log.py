"""TensorBoard's curves and pictures, for want of which a full disk ends no run."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger

from maskcap.durable import where_there_is_room

_PAUSE = 60.0  # seconds without curves after a write that failed


class TensorBoardLog(TensorBoardLogger):
    """Lightning's TensorBoardLogger, with a full disk survived: an error in the log, then nothing for a minute, then a
    new file beside the old one, which TensorBoard shows as one run. What is lost is in metrics.csv.

    The thread in which TensorBoard writes dies of its first error and raises it in every later call, so the writer
    goes with it.
    """

    _again = 0.0  # monotonic seconds before which nothing is tried

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The writer; one that does nothing while there is no room."""
        if self._experiment is None and time.monotonic() < self._again:
            return _NoWriter()
        with self._room():
            return super().experiment
        return _NoWriter()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Written where there is room."""
        with self._room():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Written where there is room."""
        with self._room():
            super().log_hyperparams(params, metrics, step)

    @rank_zero_only
    def log_picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """uint8 (H, W, 3), written where there is room."""
        with self._room():
            self.experiment.add_image(name, pixels, step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """What waits is written where there is room."""
        with self._room():
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """The last of it is written where there is room."""
        with self._room():
            super().finalize(status)

    @contextmanager
    def _room(self) -> Iterator[None]:
        with where_there_is_room(f"TensorBoard's {self.log_dir}"):
            try:
                yield
            except OSError:
                self._experiment = None
                self._again = time.monotonic() + _PAUSE
                self._remove_empty()
                raise

    def _remove_empty(self) -> None:
        """What attempts without room have left."""
        with suppress(OSError):
            for file in Path(self.log_dir).glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                if not file.stat().st_size:
                    file.unlink()


class _NoWriter:
    """Whatever is called on it does nothing, and gives it back."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: self
