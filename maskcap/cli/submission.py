"""Runs of a multirun as jobs of Slurm, by submitit; what became of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from maskcap.errors import MaskcapError

log = logging.getLogger(__name__)

# Arguments that submitit calls the same for every cluster; the others are Slurm's.
_COMMON = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
_COMMON += ("stderr_to_stdout",)


def submit(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
    """submitit's jobs, one for each list of overrides; several are one array of Slurm's.

    launcher: called in each job, with the overrides. first: number of the first one.
    """
    import submitit

    given = {name: value for name, value in launcher.params.items() if value is not None}
    folder, timeouts = given.pop("submitit_folder"), given.pop("max_num_timeout")
    executor = submitit.AutoExecutor(cluster="slurm", folder=folder, slurm_max_num_timeout=timeouts)
    executor.update_parameters(**{name if name in _COMMON else f"slurm_{name}": given[name] for name in given})
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + len(job_overrides))
    state = Singleton.get_state()
    arguments = [
        (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
        for number, overrides in zip(numbers, job_overrides, strict=True)
    ]
    jobs = executor.map_array(launcher, *zip(*arguments, strict=True))
    for number, overrides, job in zip(numbers, job_overrides, jobs, strict=True):
        log.info("#%d is job %s: %s", number, job.job_id, " ".join(filter_overrides(overrides)))
    log.info("waiting for them; `scancel %s` ends them", jobs[0].job_id.partition("_")[0])
    return jobs


def results_of(jobs: Sequence[Any], launcher: Any) -> list[JobReturn]:
    """What each job returned, in order, of its first task.

    A run's MaskcapError, and a job that ended without a result, is reported; a sweeper that counts failures finds it in
    the result, for others the command ends with exit code 2 after all results are there.
    """
    from maskcap.cli.launch import report

    found = []
    for number, job in enumerate(jobs):
        result, error = _result(job)
        failed = getattr(launcher.task_function, "failed", None)
        if error is not None:
            report(f"job {job.job_id} (#{number}): {error}")
            if failed is not None and "study" not in launcher.config.hydra.sweeper:
                failed.append(error)
                result.status, result.return_value = JobStatus.COMPLETED, None
        found.append(result)
    return found


def _result(job: Any) -> tuple[JobReturn, MaskcapError | None]:
    from submitit.core.utils import UncompletedJobError

    try:
        result = job.results()[0]
    except UncompletedJobError as lost:
        error = MaskcapError(f"ended without a result ({' '.join(str(lost).split())[:300]}): see {job.paths.stderr}")
        return JobReturn(_return_value=error, status=JobStatus.FAILED), error
    value = result._return_value
    return result, value if result.status == JobStatus.FAILED and isinstance(value, MaskcapError) else None
