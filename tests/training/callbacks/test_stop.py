"""Signals, timers and validations of whole runs: what is saved when, and what a resumed run does first."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from maskcap.errors import ConfigError
from maskcap.training.callbacks.stop import StopAtStep
from maskcap.training.checkpoints.reading import read_checkpoint
from tests.processes import ddp_on_cpu, run_ranks, tiny_run, train
from tests.training.interruptions import hooks_in, interrupt, weights_of

HOOKS = ["trusted_targets=[tests]", "+callbacks.hooks._target_=tests.training.interruptions.Hooks"]
# A validation after steps 3, 6, 9 and 12, of two batches.
VALIDATED = ["data.limit_val=2", "trainer.limit_val_batches=null", "trainer.val_check_interval=3", "data.batch_size=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def run(data: Path, folder: Path, *further: str, world: int = 1) -> list[int | None]:
    ranks = ddp_on_cpu() if world > 1 else []
    return run_ranks(
        train, *tiny_run(data, f"hydra.run.dir={folder}", *ranks, *HOOKS, *further), world=world, output=folder
    )


def step_of(folder: Path) -> int:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]


def test_numbers_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks.stop.every_minutes=-1: must be 0 or more"):
        StopAtStep(str(tmp_path), every_minutes=-1)


def test_accumulated_steps_are_whole_and_lightning_stays_out(data, tmp_path):
    """A signal in the first of a step's two batches: the step is finished, and nothing of the next one is lost."""
    accumulate = "trainer.accumulate_grad_batches=2"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole, accumulate) == [0]
    assert "handlers StopSignals 0" in hooks_in(whole)
    assert run(data, stopped, accumulate, *interrupt(SIGUSR1, 2)) == [128 + SIGUSR1]
    assert step_of(stopped) == 2
    assert run(data, stopped, accumulate, "checkpoint=auto") == [0]
    assert weights_of(stopped) == weights_of(whole)


def test_validations_are_run_again_not_passed_over(data, tmp_path):
    """Left, killed and begun in a stop: each validation ends once, and the weights stay those of an undisturbed run."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole, *VALIDATED) == [0]
    further = [*VALIDATED, "checkpoint=auto"]
    assert run(data, stopped, *further, *interrupt(SIGTERM, 3, at="validation")) == [128 + SIGTERM]
    assert step_of(stopped) == 3
    assert run(data, stopped, *further, *interrupt(SIGKILL, 6, at="validation")) == [-SIGKILL]  # the epoch's last
    assert step_of(stopped) == 6
    assert run(data, stopped, *further, *interrupt(SIGUSR2, 9)) == [128 + SIGUSR2]  # before it
    assert run(data, stopped, *further, *interrupt(SIGTERM, 12, at="validation")) == [128 + SIGTERM]
    assert run(data, stopped, *further) == [0]

    ends = [line for line in hooks_in(stopped) if line.startswith("validated")]
    assert ends == ["validated 3", "validated 6", "validated 9", "validated 12"]
    assert [line for line in hooks_in(stopped) if line.startswith("batch")] == [
        f"batch {step}" for step in range(1, 13)
    ]
    assert weights_of(stopped) == weights_of(whole)
    columns = [sorted(map(str, row)) for row in (rows(stopped), rows(whole))]
    assert columns[0] == columns[1]


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(step, train/loss, val/miou) of metrics.csv, rows with neither left out."""
    with (folder / "metrics.csv").open(newline="") as file:
        found = [(row["step"], row["train/loss"], row["val/miou"]) for row in csv.DictReader(file)]
    return [row for row in found if row[1] or row[2]]


def test_a_signal_to_one_rank_stops_both_in_a_validation(data, tmp_path):
    stop = interrupt(SIGUSR1, 3, at="validation", rank=1)
    assert run(data, tmp_path, *VALIDATED, "data.batch_size=1", *stop, world=2) == [128 + SIGUSR1] * 2
    assert step_of(tmp_path) == 3
    assert "validated 3" not in hooks_in(tmp_path)


def test_saved_by_the_clock(data, tmp_path):
    """After every step here; a run that is killed in step 5 has 4 of them."""
    assert run(data, tmp_path, "callbacks.stop.every_minutes=0", *interrupt(SIGKILL, 5)) == [-SIGKILL]
    assert step_of(tmp_path) == 4


def test_a_signal_during_setup_ends_the_run_before_its_first_step(data, tmp_path):
    assert run(data, tmp_path, *interrupt(SIGTERM, 0, at="setup")) == [128 + SIGTERM]
    assert not any("batch" in line for line in hooks_in(tmp_path))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("number", [SIGUSR1, SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_workers_alive(data, tmp_path, number):
    """As Slurm sends it: workers would die of it, and the step that is to be finished with them."""
    stop = interrupt(number, 2, at="group")
    assert run(data, tmp_path, "data.num_workers=2", *stop) == [128 + number]
    assert step_of(tmp_path) == 2


def test_requeued_under_slurm_until_enough(data, tmp_path, monkeypatch):
    """scontrol is a script that writes down what it is asked; a job started again goes on by itself."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "train",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    given = tiny_run(data, f"paths.runs={tmp_path}", "callbacks.stop.max_requeues=1", *HOOKS)
    for restarts, step in ((0, 2), (1, 4)):
        environment = slurm | {"SLURM_RESTART_COUNT": str(restarts)}
        codes = run_ranks(train, *given, *interrupt(SIGUSR1, step), output=tmp_path, environment=environment)
        assert codes == [128 + SIGUSR1]
        assert step_of(tmp_path / "demo" / "slurm_7_0") == step
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert "is not started again: it was 1 times" in (tmp_path / "rank0.txt").read_text()


def test_the_last_validation_of_max_steps_runs_when_it_was_interrupted(data, tmp_path):
    last = [*VALIDATED, "trainer.max_steps=6"]
    assert run(data, tmp_path, *last, *interrupt(SIGKILL, 6, at="validation")) == [-SIGKILL]
    assert step_of(tmp_path) == 6 and '"step": 3' in (tmp_path / "metrics.json").read_text()
    assert run(data, tmp_path, *last, "checkpoint=auto") == [0]
    assert '"step": 6' in (tmp_path / "metrics.json").read_text()


def test_a_validation_inside_an_accumulated_step_saves_nothing(data, tmp_path):
    """What it would save holds half a step's gradients no more."""
    accumulated = [*VALIDATED, "trainer.accumulate_grad_batches=2", "callbacks.last=null", "data.batch_size=1"]
    undisturbed = run(data, tmp_path / "whole", *accumulated, "callbacks.stop.every_minutes=0")
    assert undisturbed == [0]
    assert run(data, tmp_path / "cut", *accumulated, *interrupt(SIGTERM, 1, at="validation")) == [128 + SIGTERM]
    assert run(data, tmp_path / "cut", *accumulated, "callbacks.stop.every_minutes=0", "checkpoint=auto") == [0]
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_a_stop_that_could_not_be_saved_says_so(data, tmp_path):
    """The checkpoints' folder is a file."""
    (tmp_path / "checkpoints").write_text("")
    codes = run(data, tmp_path, "callbacks.last=null", *interrupt(SIGTERM, 2))
    said = (tmp_path / "rank0.txt").read_text()
    assert codes == [128 + SIGTERM] and "step 2 could NOT be saved" in said, said[-2000:]


def test_without_the_callback_signals_end_a_run(data, tmp_path):
    for number in (SIGTERM, SIGUSR1):
        assert run(data, tmp_path, "callbacks.stop=null", *interrupt(number, 2)) == [-number]
