"""A study on disk that one process at a time works on, and that a killed process leaves in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from maskcap.errors import ConfigError
from maskcap.sweeps.settings import SweepSettings, as_dict
from maskcap.sweeps.storage import open_storage
from maskcap.training.run_folder import claimed

if TYPE_CHECKING:
    from maskcap.sweeps.space import SearchSpace

log = logging.getLogger(__name__)

RETRY_OF, INTERRUPTED, REASON, PRUNED, FINISHED = "retry_of", "interrupted", "reason", "pruned_at", "finished"
STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with a `value`, or with the `reason` for its failure."""

    value: float | None = None
    reason: str | None = None


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Holds the sweep's folder as a run holds its own; a process that is killed lets go.

    Raises ConfigError naming the process that has it, and when it cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(claimed(folder))
        except ConfigError as error:
            raise ConfigError(f"{error} (of a sweep: hydra.sweeper.study=NAME)") from error
        yield


@contextmanager
def open_study(settings: SweepSettings, space: SearchSpace, metric: str, url: str) -> Iterator[SweepStudy]:
    """The study of this name, made or continued.

    Raises ConfigError when it was begun with another space, metric or direction; other fixed overrides are warned of.
    """
    with open_storage(url) as storage:
        study = optuna.create_study(
            storage=storage, study_name=settings.study, direction=settings.direction, load_if_exists=True
        )
        about = {"metric": metric, "direction": settings.direction, "space": space.describe()}
        _check_same(study, about, url)
        fixed = [each.input_line for each in space.fixed]
        before = study.user_attrs.get("fixed", fixed)
        if before != fixed:
            log.warning(
                "study %s goes on with other settings than it was begun with, its trials do not compare: %s before, "
                "%s now; hydra.sweeper.study=NAME begins another", settings.study, before, fixed,
            )  # fmt: skip
        for key, value in {**about, "fixed": fixed, "pruner": as_dict(settings.pruner)}.items():
            study.set_user_attr(key, value)
        yield SweepStudy(study, storage, settings, space)


def _check_same(study: optuna.Study, about: Mapping[str, Any], url: str) -> None:
    before = study.user_attrs
    for name, value in about.items():
        if name in before and before[name] != value:
            raise ConfigError(
                f"study {study.study_name} in {url} was begun with another {name}: {before[name]}, now {value}; "
                "hydra.sweeper.study=NAME begins another study"
            )
    direction = study.direction.name.lower()
    if direction != about["direction"]:
        raise ConfigError(f"study {study.study_name} in {url} is to {direction}, not to {about['direction']}")


class SweepStudy:
    """Asks the study for trials and tells it their outcomes; `study` is Optuna's own, and lies in `storage`."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, settings: SweepSettings, space: SearchSpace) -> None:
        self.study = study
        self.storage = storage
        self.settings = settings
        self.space = space

    def trials(self) -> list[FrozenTrial]:
        """All of them but those that wait, by number; interrupted ones are failed and say so."""
        return [each for each in self.study.get_trials(deepcopy=False) if each.state != TrialState.WAITING]

    def counted(self) -> int:
        """Trials that n_trials counts: those that ended, one way or another, without being tried again."""
        return sum(each.state.is_finished() and INTERRUPTED not in each.user_attrs for each in self.trials())

    def take_over(self) -> None:
        """Every running trial was a dead process's: one that has said its last value has that one, another is marked
        failed and its values are tried again, up to `retries` times, not counting those that were asked to stop. Only
        for the process that holds the lock."""
        retried = {each.user_attrs.get(RETRY_OF) for each in self.study.get_trials(deepcopy=False)}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if (value := trial.user_attrs.get(FINISHED)) is not None:
                self.tell(trial.number, Outcome(value=float(value)))
                log.info("trial %d had ended, and nobody had told the study: %.4g", trial.number, value)
                continue
            stopped = STOPPED in trial.user_attrs
            past = len(trial.user_attrs.get("attempts", []))
            whole = trial.params.keys() == self.space.distributions.keys()
            if whole and not stopped and past >= self.settings.retries:
                log.error("trial %d was interrupted, for the %d. time: it counts as failed", trial.number, past + 1)
                self._fail(trial.number, f"its process died, {past + 1} times")
                continue
            if whole and trial.number not in retried:  # the copy first: killed in between, nothing is lost
                attempts = [*trial.user_attrs.get("attempts", []), *([] if stopped else [trial.number])]
                self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number, "attempts": attempts})
            log.warning("trial %d was interrupted; its values are tried again", trial.number)
            self._attribute(trial.number, INTERRUPTED, True)
            self._fail(trial.number, "interrupted: asked to stop" if stopped else "interrupted: its process died")

    def stop(self, number: int) -> None:
        """The sweep was asked to stop while the trial ran: no fault of its own, if it has not ended."""
        if not self._trial(number).state.is_finished():
            self._attribute(number, STOPPED, True)

    def ask(self) -> FrozenTrial:
        """The next trial, running from here on.

        The sampler's seed follows the number of trials so far, so a study that was killed proposes what an undisturbed
        one would have.
        """
        order = self.counted() + len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        self.study.sampler = self.settings.sampler.build((self.settings.seed * 100_003 + order) % 2**32)
        number = self.study.ask(dict(self.space.distributions)).number
        return self._trial(number)

    def tell(self, number: int, outcome: Outcome) -> FrozenTrial:
        """The outcome of a trial that ran: finished, failed, or pruned where the trial itself said so."""
        attributes = self._trial(number).user_attrs
        if outcome.reason is not None:
            self._fail(number, outcome.reason)
        elif PRUNED in attributes:
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, outcome.value, state=TrialState.COMPLETE)
        return self._trial(number)

    def failed_in_a_row(self) -> int:
        """At the end of the trials so far, interrupted ones left out."""
        count = 0
        for trial in reversed([each for each in self.trials() if INTERRUPTED not in each.user_attrs]):
            if trial.state != TrialState.FAIL:
                break
            count += 1
        return count

    def _fail(self, number: int, reason: str) -> None:
        self._attribute(number, REASON, reason)
        self.study.tell(number, state=TrialState.FAIL)

    def _attribute(self, number: int, name: str, value: Any) -> None:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        trial = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        self.storage.set_trial_user_attr(trial, name, value)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]
