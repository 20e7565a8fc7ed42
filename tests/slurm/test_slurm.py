"""On a real Slurm, started on this machine: jobs of a multirun, of two tasks, and one that goes on after a warning.

Needs slurm-wlm and munge installed, and root; about three minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ddp_on_cpu, tiny_run
from tests.training.interruptions import weights_of

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SLOW = ["trusted_targets=[tests]", "+callbacks.slow._target_=tests.training.interruptions.Slow"]

missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="starting Slurm needs root"),
]


class Cluster:
    """A Slurm of one node of two cores; `data` holds the drawn scenes, `runs` the runs."""

    def __init__(self, folder: Path) -> None:
        self.state, self.runs, self.data = folder / "state", folder / "runs", folder / "data"
        self.environment = os.environ | {
            "SLURM_CONF": str(self.state / "slurm.conf"),
            "PATH": f"{HERE}:{Path(sys.executable).parent}:{os.environ['PATH']}",  # HERE: sacct
            "PYTHONPATH": str(REPOSITORY),
            "PYTHON": sys.executable,
            "MASTER_ADDR": "127.0.0.1",  # the node's name is none of the network's
            "OMP_NUM_THREADS": "1",
        }

    def tiny(self, *further: str) -> list[str]:
        return tiny_run(self.data, f"paths.runs={self.runs}", *further)

    def call(self, *command: str, timeout: float = 300) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *arguments: str, options: list[str]) -> tuple[str, Path]:
        """The job's number and its run's folder."""
        output = f"--output={self.state}/%j.out"
        said = self.call("sbatch", output, "--cpus-per-task=1", *options, "slurm/train.sbatch", *arguments)
        job = said.split()[-1]
        return job, self.runs / "demo" / f"slurm_{job}_0"

    def wait(self, job: str, timeout: float = 300) -> dict[str, str]:
        """scontrol's facts of the job once it has ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            facts = dict(re.findall(r"(\w+)=(\S+)", self.call("scontrol", "-o", "show", "job", job)))
            if facts["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"):
                return facts
            time.sleep(0.5)
        raise AssertionError(f"job {job} still runs: {self.output(job)}")

    def output(self, job: str) -> str:
        return (self.state / f"{job}.out").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        subprocess.run([HERE / "up.sh", made.state, "1"], check=True, capture_output=True, timeout=60)
        yield made
    finally:
        subprocess.run([HERE / "down.sh", made.state], check=True, timeout=60)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    run = cluster.runs / "undisturbed"
    cluster.call(sys.executable, "train.py", *cluster.tiny(f"hydra.run.dir={run}"))
    return weights_of(run)


def test_a_multirun_of_two_jobs(cluster, undisturbed):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e .[slurm]")
    slurm = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5"]
    sweep = cluster.runs / "sweep"
    cluster.call(sys.executable, "train.py", "-m", *slurm, "seed=0,1", *cluster.tiny(f"hydra.sweep.dir={sweep}"))
    assert weights_of(sweep / "0") == undisturbed
    assert weights_of(sweep / "1") != undisturbed
    assert (sweep / "comparison.json").is_file()


def test_two_tasks_train_together(cluster, undisturbed):
    job, run = cluster.submit(*cluster.tiny(*ddp_on_cpu()), options=["--ntasks-per-node=2", "--time=5"])
    assert cluster.wait(job)["JobState"] == "COMPLETED", cluster.output(job)
    assert weights_of(run)
    assert [folder.name for folder in run.parent.glob(f"slurm_{job}*")] == [run.name]


def test_a_job_warned_before_its_limit_goes_on(cluster, undisturbed):
    slow = [*SLOW, "+callbacks.slow.seconds=2"]
    job, run = cluster.submit(*cluster.tiny(*slow), options=["--time=1", "--signal=USR1@30"])
    facts = cluster.wait(job, timeout=600)
    assert facts["JobState"] == "COMPLETED", cluster.output(job)
    assert int(facts["Restarts"]) >= 1
    assert weights_of(run) == undisturbed


def test_a_cancelled_job_is_not_started_again(cluster, undisturbed):
    slow = [*SLOW, "+callbacks.slow.seconds=1", "callbacks.stop.every_minutes=0"]
    job, run = cluster.submit(*cluster.tiny(*slow), options=["--time=5"])
    end = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.2)
    cluster.call("scancel", job)
    facts = cluster.wait(job)
    assert facts["JobState"] == "CANCELLED" and facts["Restarts"] == "0", cluster.output(job)
