"""A sweep as a user runs it: killed in the middle, started again, and its best run."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from maskcap.cli.train import main as train_command
from maskcap.errors import DataError
from maskcap.sweeps.study import Outcome
from maskcap.sweeps.sweep import outcome_of
from tests.processes import join, run_ranks, start_ranks, tiny_run, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "demo"


def sweep(data: Path, runs: Path, *further: str) -> list[str]:
    """A sweep of tiny runs, each of 4 steps and 2 validations of masks from points."""
    tiny = [each for each in tiny_run(data) if "limit_val_batches" not in each and "optimized_metric" not in each]
    quick = ["loops=prompt_to_mask", "data.samples_per_epoch=4", "data.limit_val=2", f"paths.runs={runs}"]
    given = ["optimized_metric=val/prompt_miou", "hydra.sweeper.direction=maximize", "hydra/sweeper=optuna"]
    space = ["optimizer.lr=tag(log, interval(1e-4, 1e-2))", "optimizer.weight_decay=choice(0.0, 0.1)"]
    return ["-m", *given, "experiment=demo", *tiny, *quick, *space, *further]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def output(folder: Path) -> str:
    return (folder / "rank0.txt").read_text()


def test_killed_in_the_middle_then_finished_and_the_best_runs(data: Path, tmp_path: Path):
    command = sweep(data, tmp_path / "runs", "hydra.sweeper.n_trials=3")
    folder = tmp_path / "runs" / "demo" / "sweep"
    processes = start_ranks(train, *command, output=tmp_path / "first")
    deadline = time.monotonic() + 100
    while not (folder / "1" / "config.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(processes[0].pid, signal.SIGKILL)
    assert join(processes) == [-signal.SIGKILL]
    kept = (folder / "0" / "metrics.json").read_bytes()

    assert run_ranks(train, *command, output=tmp_path / "second") == [0], output(tmp_path / "second")
    rows = table(folder)
    assert [row["state"] for row in rows] == ["finished", "interrupted", "finished", "finished"]
    assert rows[1]["optimizer.lr"] == rows[2]["optimizer.lr"] and rows[2]["note"] == "repeats 1"
    assert (folder / "0" / "metrics.json").read_bytes() == kept
    for row in rows[2:]:
        metrics = json.loads((folder / row["number"] / "metrics.json").read_text())
        assert float(row["value"]) == pytest.approx(metrics["val/prompt_miou"]) and row["validations"] == "2"
        assert OmegaConf.load(folder / row["number"] / "config.yaml").optimizer.lr == float(row["optimizer.lr"])
    plots = ["importance.png", "parallel_coordinates.png", "history.png"]
    assert all((folder / name).is_file() for name in [*plots, "trials.json", "study.db"])

    printed = output(tmp_path / "second").splitlines()[-1]
    words = shlex.split(printed)
    assert words[:2] == ["python", "train.py"] and words[3:] == ["+experiment=best"]
    once = [f"hydra.run.dir={tmp_path / 'best'}"]
    assert run_ranks(train, *words[2:], *once, output=tmp_path / "third") == [0], output(tmp_path / "third")
    best = max((row for row in rows if row["value"]), key=lambda row: float(row["value"]))
    again = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert again["val/prompt_miou"] == pytest.approx(float(best["value"]))


def test_failed_trials_are_counted_and_survived(command, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    space = ["optimizer.lr=choice(fast, 1e-3)", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.name=random"]
    assert command(train_command, *sweep(data, tmp_path / "runs"), *space) == 0
    rows = table(tmp_path / "runs" / "demo" / "sweep")
    states = {row["optimizer.lr"]: row["state"] for row in rows}
    assert states == {"fast": "failed", "0.001": "finished"} and len(rows) == 3
    notes = [row["note"] for row in rows if row["state"] == "failed"]
    assert notes and all(note.startswith("optimizer.lr must be float") for note in notes)
    printed = capfd.readouterr().out
    assert "+experiment=best" in printed and f"{len(notes)} failed" in printed


def test_what_a_run_returns_is_an_outcome(caplog: pytest.LogCaptureFixture):
    def outcome(value: object, status: JobStatus = JobStatus.COMPLETED) -> Outcome:
        return outcome_of(JobReturn(_return_value=value, status=status))

    assert outcome(0.5) == Outcome(0.5)
    assert outcome(float("nan")) == Outcome(reason="the metric is nan")
    assert outcome(None) == Outcome(reason="it returned no value")
    assert outcome(DataError("a.json is empty\nsee there"), JobStatus.FAILED) == Outcome(reason="a.json is empty")
    assert not caplog.records
    assert outcome(KeyError("x"), JobStatus.FAILED) == Outcome(reason="KeyError: 'x'")
    assert "an error of the program's" in caplog.text  # with its traceback


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["optimizer.lr=interval(1, 0)"], 2, "'optimizer.lr=interval(1, 0)' is no search space"),
        (["seed=0"], 2, "nothing to search: give sweep=NAME"),
        (["optimized_metric=null", "seed=0,1"], 2, "a sweep needs optimized_metric=NAME"),
        (["hydra.sweeper.n_trials=0", "seed=0,1"], 2, "hydra.sweeper.n_trials must be at least 1"),
        (["optimizer.lrr=interval(0, 1)"], 1, "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        (["model=choice(tiny, tinny)"], 1, "there is no model=tinny; did you mean 'tiny'"),
        (["sweep=dmeo"], 1, "there is no sweep=dmeo; did you mean 'demo'"),
        (["data.root=/nowhere", "data=refcoco", "seed=0,1"], 2, "no trial of study sweep finished"),
        (["optimizer.lr=choice(fast, faster)"], 2, "trials in a row failed, the last one: optimizer.lr must be float"),
    ],
)
def test_mistakes_are_one_message(
    command, arguments: list[str], code: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    given = ["-m", "hydra/sweeper=optuna", "optimized_metric=val/miou", f"paths.runs={tmp_path}", *arguments]
    limit = [] if any("n_trials" in each for each in arguments) else ["hydra.sweeper.n_trials=3"]
    given += [*limit, "hydra.sweeper.stop_after_failures=2"] if "fast" in str(arguments) else limit
    assert command(train_command, *given) == code
    error = capfd.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and message in error[-1]


def test_ranks_do_not_sweep_each_on_its_own(command, monkeypatch: pytest.MonkeyPatch, capfd, tmp_path: Path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = ["-m", "hydra/sweeper=optuna", "optimized_metric=val/miou", "seed=0,1", f"paths.runs={tmp_path}"]
    assert command(train_command, *given) == 2
    assert "a sweep is one process" in capfd.readouterr().err
