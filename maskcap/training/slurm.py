"""What Slurm's environment says of this process, and what a job asks of Slurm: to be started again."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_SECONDS = 60  # Slurm's controller may be busy


@dataclass(frozen=True)
class SlurmJob:
    """The batch job that this process is part of.

    job: its number. name: what scontrol calls it, of an array `<array>_<task>`. step: number of the srun within it,
    None for what the script runs itself. restarts: how often Slurm has started the job again.
    """

    job: str
    name: str
    step: str | None = None
    restarts: int = 0


def this_job(environment: Mapping[str, str] | None = None) -> SlurmJob | None:
    """The job, None outside of Slurm and in an interactive shell, whose commands are runs of their own.

    environment: default os.environ.
    """
    given = os.environ if environment is None else environment
    job = given.get("SLURM_JOB_ID", "")
    shell = given.get("SLURM_JOB_NAME") in ("bash", "interactive") or "SLURM_PTY_PORT" in given
    if not job.isdigit() or shell:
        return None
    array, task = given.get("SLURM_ARRAY_JOB_ID"), given.get("SLURM_ARRAY_TASK_ID")
    restarts = given.get("SLURM_RESTART_COUNT", "")
    return SlurmJob(
        job,
        f"{array}_{task}" if array and task else job,
        given.get("SLURM_STEP_ID"),
        int(restarts) if restarts.isdigit() else 0,
    )


def requeue(job: SlurmJob) -> str | None:
    """Have Slurm start the job again, which ends it here soon after; what went wrong, None when nothing did."""
    try:
        done = subprocess.run(["scontrol", "requeue", job.name], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol: {error}"
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


def was_cancelled(job: SlurmJob) -> bool:
    """Whether somebody has cancelled the job; False also where Slurm does not answer.

    A job that ends shows as COMPLETING, whatever for; one that has reached its time limit says so.
    """
    try:
        shown = subprocess.run(
            ["scontrol", "-o", "show", "job", job.name], capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return False
    ends = re.search(r"\bJobState=(CANCELLED|COMPLETING)\b", shown.stdout)
    return ends is not None and "Reason=TimeLimit" not in shown.stdout
