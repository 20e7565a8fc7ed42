"""`hydra/sweeper=optuna` as Hydra sees it: Hydra takes plugins from the namespace `hydra_plugins` alone.

Light, for every command imports it: the work, and Optuna, are in maskcap/sweeps/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`; the arguments are those of conf/hydra/sweeper/optuna.yaml, which explains them.

    Wrong ones raise ConfigError when the sweep begins, before a trial runs.
    """

    def __init__(
        self,
        *,
        study: str,
        n_trials: int,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        storage: str | None = None,
        n_jobs: int = 1,
        direction: str | None = None,
        seed: int = 0,
        retries: int = 2,
        stop_after_failures: int | None = 5,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = {
            "study": study,
            "storage": storage,
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "direction": direction,
            "seed": seed,
            "sampler": sampler,
            "pruner": pruner,
            "retries": retries,
            "stop_after_failures": stop_after_failures,
        }
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: the launcher that the trials go to."""
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are `n_trials`, then write the tables. Raises ConfigError, also when none finished."""
        from maskcap.errors import ConfigError

        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"hydra/sweeper=optuna needs Optuna ({error}): pip install -e .[sweep]") from error
        from maskcap.sweeps.sweep import sweep

        sweep(self, arguments)

    def check(self, trials: Sequence[Sequence[str]]) -> None:
        """Compose trials without running them. Raises Hydra's error where one cannot be composed."""
        self.validate_batch_is_legal(trials)
