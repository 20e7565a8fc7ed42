"""Slurm around a command: names of run folders that outlive a requeue, jobs that go on."""

from __future__ import annotations

import logging
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from maskcap.errors import ConfigError
from maskcap.training.slurm import this_job

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

LAUNCHER = "hydra_plugins.maskcap_slurm.SlurmRuns"


def job_folder() -> str | None:
    """`slurm_<job>_<step>`, the same on all ranks and whenever the job is started again; None outside of a batch job.

    What a script runs without srun has no step: a number that stands for its arguments takes that place, so that a
    script may train several times.
    """
    job = this_job()
    if job is None:
        return None
    return f"slurm_{job.job}_{job.step or f'{zlib.crc32(chr(0).join(sys.argv[1:]).encode()):08x}'}"


def go_on_if_requeued(config: DictConfig) -> None:
    """`checkpoint=auto` for a job that Slurm has started again and that has a checkpoint in its run folder: whatever
    the job began from, it goes on from there."""
    job = this_job()
    if job is None or job.restarts == 0:
        return
    if any(Path(config.paths.run, "checkpoints").glob("*.ckpt")):
        log.info("start %d of job %s: going on from its last checkpoint", job.restarts + 1, job.name)
        config.checkpoint = "auto"


def check_submission(installed: bool) -> None:
    """Raises ConfigError where no job can be submitted: without Slurm's commands, or without submitit.

    installed: whether hydra-submitit-launcher is.
    """
    missing = [command for command in ("sbatch", "srun") if shutil.which(command) is None]
    if missing:
        raise ConfigError(
            f"hydra/launcher=slurm needs {' and '.join(missing)} on PATH, and this machine has not: run it on a login "
            "node of the cluster, or leave it out to run here"
        )
    if not installed:
        raise ConfigError("hydra/launcher=slurm needs submitit: pip install -c constraints.txt -e .[slurm]")


def check_launcher() -> None:
    """Raises ConfigError for a single run with `hydra/launcher=slurm`: Hydra has launchers act with -m alone."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and hydra.launcher.get("_target_") == LAUNCHER:
        raise ConfigError("hydra/launcher=slurm submits jobs with -m alone, also a single one: add -m")
