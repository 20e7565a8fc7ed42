"""Which folders are runs, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcap.errors import ConfigError
from maskcap.metrics.prediction import Prediction
from maskcap.reports.html.runs import find_runs, read_runs, short_names
from tests.reports.html.conftest import MakeRun


def test_folders_patterns_and_folders_of_runs_are_found_once_and_in_order(make_run: MakeRun, tmp_path: Path):
    runs = [make_run(f"sweep/{job}") for job in (0, 1, 9, 10)]
    (tmp_path / "sweep" / "notes").mkdir()
    assert find_runs([str(tmp_path / "sweep")]) == runs
    assert find_runs([str(runs[2]), f"{tmp_path}/sw*/1*", str(tmp_path)]) == [runs[2], runs[1], runs[3], runs[0]]


@pytest.mark.parametrize(
    ("word", "message"), [("lost", "is no folder"), ("*.lost", "matches nothing"), ("empty", "holds no run")]
)
def test_a_word_without_runs_is_named(tmp_path: Path, word: str, message: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"{word.replace('*', '.')} {message}"):
        find_runs([str(tmp_path / word)])


def test_names_are_what_differs_of_the_paths():
    assert short_names([Path("/runs/a/1"), Path("/runs/b/1"), Path("/runs/b")]) == ["a/1", "b/1", "b"]
    assert short_names([Path("/runs/a")]) == ["a"]


def test_everything_in_a_folder_is_read(make_run: MakeRun):
    path = make_run("a")
    (path / "predictions.jsonl").write_text(Prediction("k", "0", "main", "s", iou=0.5).to_json() + "\n")
    (run,) = read_runs([path])
    assert run.settings == {"name": "demo", "optimizer.lr": 1e-3} and run.command == "train.py optimizer.lr=0.001"
    assert run.metrics["val/miou"] == 0.5 and run.facts["status"] == "finished" and run.missing == ()
    assert {name: len(values) for name, (_, values) in run.series.items()} == {"train/loss": 40, "val/miou": 1}
    assert run.pictures == {"step": path / "samples" / "step_000040.png"} and run.predictions[0].iou == 0.5


def test_what_is_missing_or_damaged_is_named(make_run: MakeRun):
    path = make_run("a")
    (path / "metrics.json").write_text('{"val/miou": 0.')
    (path / "metrics.csv").write_text("no,step,here\n")
    (path / "config.yaml").write_text("a: [")
    (path / "predictions.jsonl").write_text("{}\n")
    (run,) = read_runs([path])
    names = ["config.yaml", "metrics.json", "predictions.jsonl"]
    assert [each.partition(" (")[0] for each in run.missing] == names and run.series == {}


def test_an_evaluation_needs_no_curves(make_run: MakeRun):
    path = make_run("a")
    (path / "metrics.csv").unlink()
    (run,) = read_runs([path])
    assert run.missing == ("metrics.csv (no such file)",)
    (path / "predictions.jsonl").touch()
    (run,) = read_runs([path])
    assert run.missing == ()
