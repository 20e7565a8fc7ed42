"""What a sweep leaves: the table on the terminal, trials.csv and trials.json, the best trial as a file, plots."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from maskcap.durable import replacing, write_whole
from maskcap.errors import ConfigError
from maskcap.sweeps.best import write_best
from maskcap.sweeps.study import INTERRUPTED, PRUNED, REASON, RETRY_OF, SweepStudy

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

log = logging.getLogger(__name__)

_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class TrialRow:
    """A trial in the tables. value: the metric at its end, None without one; curve: its values by validation; note:
    why it failed, where it was pruned, which trial it repeats."""

    number: int
    state: str
    value: float | None
    seconds: float | None
    parameters: Mapping[str, Any]
    curve: Mapping[int, float]
    note: str


def rows_of(study: SweepStudy) -> list[TrialRow]:
    """One for each trial, by number."""
    return [_row(each, study) for each in study.trials()]


def best_row(rows: Sequence[TrialRow], direction: str) -> TrialRow | None:
    """The finished trial with the best value, the earlier one of equals; None when none finished."""
    finished = [row for row in rows if row.state == "finished" and row.value is not None]
    sign = -1 if direction == "maximize" else 1
    return min(finished, key=lambda row: (sign * (row.value or 0.0), row.number), default=None)


def report(study: SweepStudy, folder: Path, metric: str, loader: ConfigLoader) -> None:
    """Write the files into `folder` and print the table. Raises ConfigError when no trial finished."""
    from maskcap.reports.trials import write_plots

    rows = rows_of(study)
    write_tables(rows, folder)
    best = best_row(rows, study.settings.direction)
    _print_table(rows, best, metric)
    if best is None:
        reasons = "; ".join(dict.fromkeys(row.note for row in rows if row.state == "failed"))
        raise ConfigError(f"no trial of study {study.settings.study} finished: {reasons or 'all were pruned'}")
    importances, why_not = importances_of(study)
    maximize = study.study.direction == StudyDirection.MAXIMIZE
    plots = write_plots(rows, folder, metric, maximize=maximize, importances=importances, why_not=why_not)
    trial = study.study.get_trials(deepcopy=False)[best.number]
    command = write_best(study.space, trial.params, folder, loader, f"trial {best.number}, {metric} {best.value:.6g}")
    _print_end(folder, best, metric, plots, command)


def write_tables(rows: Sequence[TrialRow], folder: Path) -> None:
    """`trials.json`, and `trials.csv` with a column for each parameter; replaced in one move each."""
    plain = [
        {**vars(row), "parameters": dict(row.parameters), "curve": {str(k): v for k, v in row.curve.items()}}
        for row in rows
    ]
    write_whole(folder / "trials.json", json.dumps(plain, indent=2) + "\n")
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    with replacing(folder / "trials.csv") as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "value", *names, "seconds", "validations", "note"])
        for row in rows:
            values = [row.parameters.get(name, "") for name in names]
            writer.writerow([row.number, row.state, row.value, *values, row.seconds, len(row.curve), row.note])


def importances_of(study: SweepStudy) -> tuple[dict[str, float], str]:
    """Each parameter's share in how the metric varies over finished trials (PED-ANOVA), largest first; or none, and
    why."""
    from optuna.importance import get_param_importances

    finished = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if len(finished) < 4:
        return {}, f"{len(finished)} trials finished: importances need 4"
    if len({trial.value for trial in finished}) == 1:
        return {}, "every trial has the same value"
    try:
        found = {name.lstrip("+"): float(value) for name, value in get_param_importances(study.study).items()}
    except (ValueError, RuntimeError) as error:
        return {}, str(error)
    return (found, "") if all(math.isfinite(value) for value in found.values()) else ({}, "too few trials differ")


def _row(trial: FrozenTrial, study: SweepStudy) -> TrialRow:
    notes = []
    if PRUNED in trial.user_attrs and trial.state == TrialState.PRUNED:
        notes.append(f"pruned after validation {trial.user_attrs[PRUNED]}")
    if trial.state == TrialState.FAIL:
        notes.append(trial.user_attrs.get(REASON, "for no reason that is known"))
    if RETRY_OF in trial.user_attrs:
        notes.append(f"repeats {trial.user_attrs[RETRY_OF]}")
    value = trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    return TrialRow(
        number=trial.number,
        state="interrupted" if INTERRUPTED in trial.user_attrs else _STATES.get(trial.state, "running"),
        value=value,
        seconds=None if trial.duration is None else round(trial.duration.total_seconds(), 1),
        parameters={key.lstrip("+"): trial.params[key] for key in study.space.distributions if key in trial.params},
        curve=dict(trial.intermediate_values),
        note="; ".join(notes),
    )


def _print_table(rows: Sequence[TrialRow], best: TrialRow | None, metric: str) -> None:
    from rich.table import Table

    console = _console()
    table = Table(title="Trials", title_justify="left", header_style="bold")
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    for name in ("trial", "state", metric, *names, "seconds", "note"):
        table.add_column(name, justify="left" if name in ("state", "note") else "right", overflow="fold")
    for row in rows:
        cells = [f"{row.number}", row.state, _cell(row.value), *(_cell(row.parameters.get(name)) for name in names)]
        table.add_row(*cells, _cell(row.seconds), row.note, style="bold" if row is best else None)
    console.print(table)
    counts = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(row.state for row in rows)}
    console.print("  " + ", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)


def _print_end(folder: Path, best: TrialRow, metric: str, plots: Sequence[Path], command: str) -> None:
    console = _console()
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"  best: trial {best.number}, {metric} {_cell(best.value)}, in {shown / str(best.number)}")
    console.print(f"  {shown / 'trials.csv'}, trials.json, {', '.join(each.name for each in plots)}", highlight=False)
    console.print("  train with the best settings again:", highlight=False)
    print(f"    {command}")  # not wrapped: to be copied


def _console() -> Any:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
