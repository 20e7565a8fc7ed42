"""What Slurm's environment says; scontrol is a small script of the test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcap.training.slurm import SlurmJob, requeue, this_job, was_cancelled

STEP = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}


def test_job_of_the_environment():
    assert this_job({}) is None
    assert this_job(STEP) == SlurmJob("12", "12", "0", 0)
    assert this_job(STEP | {"SLURM_RESTART_COUNT": "3"}) == SlurmJob("12", "12", "0", 3)
    array = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "4"}
    assert this_job(STEP | array) == SlurmJob("12", "11_4", "0", 0)
    assert this_job({"SLURM_JOB_ID": "12"}) == SlurmJob("12", "12", None, 0)


@pytest.mark.parametrize(
    "shell", [{"SLURM_JOB_NAME": "bash"}, {"SLURM_JOB_NAME": "interactive"}, {"SLURM_PTY_PORT": "1"}]
)
def test_an_interactive_shell_is_no_job(shell):
    assert this_job(STEP | shell) is None


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_requeue_names_the_array_task(tmp_path, monkeypatch):
    scontrol(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/said')
    assert requeue(SlurmJob("12", "11_4")) is None
    assert (tmp_path / "said").read_text() == "requeue 11_4\n"


def test_requeue_says_what_went_wrong(tmp_path, monkeypatch):
    scontrol(tmp_path, monkeypatch, "echo 'Requested operation is presently disabled' >&2; exit 1")
    assert requeue(SlurmJob("12", "12")) == "Requested operation is presently disabled"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "scontrol" in str(requeue(SlurmJob("12", "12")))


def test_cancelled_jobs_are_known(tmp_path, monkeypatch):
    scontrol(tmp_path, monkeypatch, "echo 'JobId=12 JobState=CANCELLED Reason=None'")
    assert was_cancelled(SlurmJob("12", "12"))
    scontrol(tmp_path, monkeypatch, "echo 'JobId=12 JobState=COMPLETING Reason=None'")
    assert was_cancelled(SlurmJob("12", "12"))
    scontrol(tmp_path, monkeypatch, "echo 'JobId=12 JobState=COMPLETING Reason=TimeLimit'")
    assert not was_cancelled(SlurmJob("12", "12"))
    scontrol(tmp_path, monkeypatch, "echo 'JobId=12 JobState=RUNNING Reason=None'")
    assert not was_cancelled(SlurmJob("12", "12"))
    scontrol(tmp_path, monkeypatch, "exit 1")
    assert not was_cancelled(SlurmJob("12", "12"))
