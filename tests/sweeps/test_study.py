from __future__ import annotations

import logging
from pathlib import Path

import pytest
from optuna.trial import TrialState

from maskcap.errors import ConfigError
from maskcap.sweeps.results import best_row, importances_of, rows_of, write_tables
from maskcap.sweeps.study import Outcome, only_here
from tests.processes import CONTEXT

from .conftest import Opened


def value_of(parameters: dict) -> float:
    return -((parameters["x"] - 0.3) ** 2) + 0.1 * (parameters["y"] == "b")


def test_a_study_that_was_killed_proposes_what_an_undisturbed_one_does(opened: Opened, tmp_path: Path):
    (tmp_path / "whole").mkdir()
    with opened(folder=tmp_path / "whole") as study:
        for _ in range(6):
            trial = study.ask()
            study.tell(trial.number, Outcome(value_of(trial.params)))
        undisturbed = [trial.params for trial in study.trials()]
    for stop in (0, 4, 99):
        with opened() as study:
            study.take_over()
            while study.counted() < 6:
                trial = study.ask()
                if study.counted() == stop:
                    break  # killed: it goes on running in the storage
                study.tell(trial.number, Outcome(value_of(trial.params)))
    with opened() as study:
        assert study.counted() == 6 and len(study.trials()) == 8
        ended = [trial.params for trial in study.trials() if trial.state == TrialState.COMPLETE]
        assert ended == undisturbed
        states = [row.state for row in rows_of(study)]
        assert states[:2] == ["interrupted", "finished"] and states.count("interrupted") == 2
        assert rows_of(study)[1].note == "repeats 0"
        assert study.study.best_trial.number == getattr(best_row(rows_of(study), "maximize"), "number", None)


def test_a_trial_that_always_dies_is_given_up(opened: Opened, caplog: pytest.LogCaptureFixture):
    for _ in range(3):
        with opened(retries=1) as study:
            study.take_over()
            study.ask()
    with opened(retries=1) as study:
        rows = rows_of(study)
        assert [row.state for row in rows] == ["interrupted", "failed", "running"] and study.counted() == 1
        assert rows[1].note == "its process died, 2 times; repeats 0"
        assert rows[2].parameters != rows[0].parameters == rows[1].parameters
    assert "trial 0 was interrupted; its values are tried again" in caplog.text


def test_a_trial_that_ended_untold_keeps_its_value(opened: Opened):
    with opened() as study:
        study._attribute(study.ask().number, "finished", 0.5)
        study._attribute(pruned := study.ask().number, "finished", 0.25)
        study._attribute(pruned, "pruned_at", 1)
    with opened() as study:
        study.take_over()
        first, second = study.study.trials
        assert (first.state, first.value, second.state) == (TrialState.COMPLETE, 0.5, TrialState.PRUNED)


def test_being_asked_to_stop_is_no_attempt(opened: Opened):
    with opened(retries=0) as study:
        study.stop(study.ask().number)
    with opened(retries=0) as study:
        study.take_over()
        assert study.counted() == 0 and rows_of(study)[0].state == "interrupted"
        again = study.ask()
        assert again.params == study.study.trials[0].params
        study.tell(again.number, Outcome(0.5))
        study.stop(again.number)
        assert "stopped" not in study.study.trials[1].user_attrs


def test_a_kill_between_the_copy_and_the_mark_makes_no_second_copy(opened: Opened):
    with opened() as study:
        first = study.ask()
        study.study.enqueue_trial(first.params, user_attrs={"retry_of": first.number, "attempts": [first.number]})
    with opened() as study:
        study.take_over()
        assert [trial.state for trial in study.study.trials] == [TrialState.FAIL, TrialState.WAITING]
        assert study.ask().params == first.params


def test_failures_count_and_have_reasons(opened: Opened):
    with opened() as study:
        for outcome in (Outcome(0.5), Outcome(reason="the metric is nan"), Outcome(reason="no such file")):
            study.tell(study.ask().number, outcome)
        assert (study.counted(), study.failed_in_a_row()) == (3, 2)
        assert [row.note for row in rows_of(study)] == ["", "the metric is nan", "no such file"]


def test_another_space_metric_or_direction_needs_another_study(opened: Opened, caplog: pytest.LogCaptureFixture):
    with opened():
        pass
    with pytest.raises(ConfigError, match="study s in sqlite:.*another space: .*hydra.sweeper.study=NAME"):
        with opened("x=interval(0, 2)"):
            pass
    with pytest.raises(ConfigError, match="another metric: val/miou, now val/ciou"):
        with opened(metric="val/ciou"):
            pass
    with pytest.raises(ConfigError, match="another direction: maximize, now minimize"):
        with opened(direction="minimize"):
            pass
    with opened("x=interval(0, 1)", "y=choice(a, b)", "seed=2"), caplog.at_level(logging.WARNING):
        pass
    assert "its trials do not compare: ['seed=1'] before, ['seed=2'] now" in caplog.text


def test_a_storage_that_cannot_be_opened_is_named(opened: Opened, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"hydra.sweeper.storage=sqlite:.*/nowhere/study.db cannot be opened"):
        with opened(folder=tmp_path / "nowhere"):
            pass


def hold(folder: Path, ready, done) -> None:
    with only_here(folder):
        ready.set()
        done.wait(60)


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path):
    ready, done = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(
        ConfigError, match=f"in use by another run .process {process.pid} on .*hydra.sweeper.study=NAME"
    ):
        with only_here(tmp_path):
            pass
    process.kill()
    process.join()
    with only_here(tmp_path):
        pass


def test_tables_and_importances(opened: Opened, tmp_path: Path):
    with opened() as study:
        assert importances_of(study) == ({}, "0 trials finished: importances need 4")
        for _ in range(12):
            trial = study.ask()
            study.tell(trial.number, Outcome(trial.params["x"]))
        found, why_not = importances_of(study)
        assert sum(found.values()) == pytest.approx(1) and found["x"] > found["y"] and why_not == ""
        write_tables(rows_of(study), tmp_path)
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "number,state,value,x,y,seconds,validations,note" and len(lines) == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db", "trials.csv", "trials.json"]
