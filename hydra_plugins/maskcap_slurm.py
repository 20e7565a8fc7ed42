"""`hydra/launcher=slurm` as Hydra sees it: Hydra takes plugins from the namespace `hydra_plugins` alone.

Light, for every command imports it: submitit is imported when jobs are submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

_Base: Any
try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as _Base
except ImportError:
    _Base = Launcher  # `setup` says what is missing


class SlurmRuns(_Base):
    """`hydra/launcher=slurm`: each run of a multirun is a job; conf/hydra/launcher/slurm.yaml explains the arguments.

    Waits for all jobs, also when one has failed, so that the others are compared.
    """

    def __init__(self, **params: Any) -> None:
        self.params = params
        if _Base is not Launcher:
            super().__init__(**params)

    def setup(self, **parts: Any) -> None:
        """Hydra's hook. Raises ConfigError where jobs cannot be submitted."""
        from maskcap.cli.slurm import check_submission

        check_submission(installed=_Base is not Launcher)
        super().setup(**parts)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit one job for each list of overrides, and wait."""
        from maskcap.cli.submission import results_of, submit

        return results_of(submit(self, job_overrides, initial_job_idx), self)
