"""metrics.csv that a run which goes on in its folder continues."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from maskcap.durable import NO_ROOM, replacing, where_there_is_room


class CSVLog(CSVLogger):
    """Lightning's CSVLogger deletes an earlier metrics.csv when it begins; this one keeps the rows that a resumed run
    does not log again (see `keep_before`), and deletes the file at the first row where nobody said so."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The writer."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    @rank_zero_only
    def keep_before(self, step: int) -> None:
        """Rows of earlier runs in this folder stay where their step is below `step`, optimiser steps; 0 keeps none."""
        self.experiment.keep_before(step)


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._begun = False

    def _check_log_dir_exists(self) -> None:
        """Deletes nothing yet."""

    def keep_before(self, step: int) -> None:
        """See `CSVLog`."""
        self._begun = True
        place = Path(self.metrics_file_path)
        if not place.is_file():
            return
        with place.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = [row for row in reader if _step(row) < step]
        if not rows:
            place.unlink()
            return
        with replacing(place) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self.metrics_keys = columns  # the file's; new ones join them

    def save(self) -> None:
        """Appends the new rows; with no room on the disk they wait for the next time."""
        if self.metrics and not self._begun:
            self.keep_before(0)
        place = Path(self.metrics_file_path)
        before = place.read_bytes() if self._has_new_columns() and place.is_file() else None
        size, columns = place.stat().st_size if place.is_file() else 0, list(self.metrics_keys)
        try:
            super().save()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            # The rows stay in memory for the next time; what was there stays as it was.
            self.metrics_keys = columns
            with where_there_is_room(place):
                if before is not None:
                    place.write_bytes(before)
                elif place.is_file():
                    os.truncate(place, size)
                raise

    def _has_new_columns(self) -> bool:
        return bool(set().union(*self.metrics) - set(self.metrics_keys))


def _step(row: dict[str, str]) -> float:
    """Infinity for a line that a kill cut short."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")
