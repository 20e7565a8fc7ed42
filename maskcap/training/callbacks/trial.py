"""A trial of a sweep tells the study how it does after every validation, and ends when the study's pruner says so."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

log = logging.getLogger(__name__)

_PRUNED, _GIVEN_UP = "pruned", "given up"


class TrialReport(pl.Callback):
    """Put into a run by `hydra/sweeper=optuna`, not by hand.

    After the n-th validation the metric's value goes to the study as step n (not the optimiser's step: trials of
    different batch sizes are compared too). A pruned trial ends as early stopping would, with its checkpoint and
    metrics written. Rank 0 talks to the storage, all ranks stop together.

    storage: Optuna's URL; study: its name; number: the trial's; metric: as the module logs it.
    A storage that does not answer is warned of once, and the trial goes on without pruning. Raises ConfigError when
    the study has given the trial up meanwhile.
    """

    def __init__(self, storage: str, study: str, number: int, metric: str) -> None:
        self.storage = storage
        self.study = study
        self.number = number
        self.metric = metric
        self._validations = 0
        self._unreachable = False

    def state_dict(self) -> dict[str, Any]:
        """The validations so far, so that a resumed trial counts on."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on from the checkpoint's validations."""
        self._validations = int(state_dict["validations"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and stops the run when the pruner asks for it. Every rank must come here."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None:
            return
        self._validations += 1
        verdict = self._talk(value=float(value), may_end=not _at_its_end(trainer)) if trainer.is_global_zero else ""
        verdict = trainer.strategy.broadcast(verdict)
        if verdict == _GIVEN_UP:
            raise ConfigError(f"trial {self.number} of study {self.study} was given up: it is tried again elsewhere")
        if verdict == _PRUNED:
            log.info("pruned after validation %d: %s %.4g", self._validations, self.metric, value)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last value, for a launcher that loses it."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.is_global_zero and value is not None and math.isfinite(float(value)):
            self._talk(finished=float(value))

    def _talk(self, *, value: float | None = None, may_end: bool = False, finished: float | None = None) -> str:
        from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
        from sqlalchemy.exc import SQLAlchemyError

        from maskcap.sweeps.storage import open_storage

        try:
            with open_storage(self.storage) as storage:
                study = storage.get_study_id_from_name(self.study)
                trial = storage.get_trial_id_from_study_id_trial_number(study, self.number)
                if finished is not None:
                    storage.set_trial_user_attr(trial, "finished", finished)
                elif value is not None and math.isfinite(value):
                    return self._report(storage, trial, value, may_end)
                return ""
        except UpdateFinishedTrialError:
            return _GIVEN_UP
        except (SQLAlchemyError, StorageInternalError, ConfigError, KeyError) as error:
            if not self._unreachable:
                log.warning("trial %d cannot reach its study and goes on without pruning: %s", self.number, error)
            self._unreachable = True
            return ""

    def _report(self, storage: RDBStorage, trial: int, value: float, may_end: bool) -> str:
        from maskcap.sweeps.storage import worth_pruning

        storage.set_trial_intermediate_value(trial, self._validations, value)
        if not may_end or not worth_pruning(storage, self.study, trial):
            return ""
        storage.set_trial_user_attr(trial, "pruned_at", self._validations)
        return _PRUNED


def _at_its_end(trainer: pl.Trainer) -> bool:
    """After the last validation there is nothing to save: the trial has finished."""
    last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    steps_done = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return steps_done or (last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
