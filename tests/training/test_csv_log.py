"""metrics.csv over a resume."""

from __future__ import annotations

import csv
from pathlib import Path

from maskcap.training.csv_log import CSVLog


def logger_in(folder: Path) -> CSVLog:
    return CSVLog(folder, name="", version="")


def rows(folder: Path) -> list[tuple[int, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]


def log(logger: CSVLog, steps: range, mark: float, **further: float) -> None:
    for step in steps:
        logger.log_metrics({"loss": mark, **further}, step)
    logger.save()


def test_rows_before_the_checkpoint_stay_and_new_columns_join_them(tmp_path):
    log(logger_in(tmp_path), range(5), 1.0, first=3.0)
    resumed = logger_in(tmp_path)
    resumed.keep_before(3)
    log(resumed, range(3, 6), 2.0)
    log(resumed, range(6, 7), 2.0, second=4.0)
    assert rows(tmp_path) == [(0, "1.0"), (1, "1.0"), (2, "1.0"), (3, "2.0"), (4, "2.0"), (5, "2.0"), (6, "2.0")]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",") == ["first", "loss", "second", "step"]


def test_a_new_run_in_an_old_folder_begins_anew(tmp_path):
    log(logger_in(tmp_path), range(5), 1.0)
    told = logger_in(tmp_path)
    told.keep_before(0)
    assert not (tmp_path / "metrics.csv").exists()
    log(logger_in(tmp_path), range(5), 1.0)
    log(logger_in(tmp_path), range(2), 2.0)
    assert rows(tmp_path) == [(0, "2.0"), (1, "2.0")]


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    log(logger_in(tmp_path), range(2), 1.0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1.")
    resumed = logger_in(tmp_path)
    resumed.keep_before(9)
    log(resumed, range(2, 3), 2.0)
    assert rows(tmp_path) == [(0, "1.0"), (1, "1.0"), (2, "2.0")]
