"""A sweep: ask the study for trials, hand them to Hydra's launcher, tell what came of them, write the tables."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import FrozenTrial

from maskcap.errors import ConfigError, MaskcapError
from maskcap.sweeps.results import report
from maskcap.sweeps.settings import SweepSettings, read_settings
from maskcap.sweeps.space import SearchSpace, read_space
from maskcap.sweeps.storage import sqlite_url
from maskcap.sweeps.study import FINISHED, Outcome, SweepStudy, only_here, open_study

if TYPE_CHECKING:
    from hydra_plugins.maskcap_optuna import OptunaSweeper

log = logging.getLogger(__name__)

_CALLBACK = "maskcap.training.callbacks.trial.TrialReport"


def sweep(sweeper: OptunaSweeper, arguments: Sequence[str]) -> None:
    """Run the trials that are missing from `n_trials`, in `hydra.sweep.dir`, and report.

    Raises ConfigError for wrong settings, when another process has the study, when trial after trial fails, and when
    none finished. A trial that fails is counted, named and survived.
    """
    config, hydra = sweeper.config, sweeper.hydra_context
    assert config is not None and hydra is not None
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ConfigError(
            "a sweep is one process: every rank would run its own; hydra/launcher=slurm gives trials ranks"
        )
    metric = config.get("optimized_metric")
    if not metric:
        raise ConfigError("a sweep needs optimized_metric=NAME, for example optimized_metric=val/miou")
    settings = read_settings(sweeper.settings, config)
    space = read_space(sweeper.params, arguments, hydra.config_loader)
    sweeper.check(space.probes())
    folder = Path(config.hydra.sweep.dir).absolute()
    url = settings.storage or sqlite_url(folder)
    with only_here(folder), open_study(settings, space, metric, url) as study:
        study.take_over()
        _run_missing(sweeper, study, settings, url)
        report(study, folder, metric, hydra.config_loader)


def _run_missing(sweeper: OptunaSweeper, study: SweepStudy, settings: SweepSettings, url: str) -> None:
    there = study.counted()
    if there:
        log.info("study %s has %d of %d trials already", settings.study, there, settings.n_trials)
    new = 0
    while (missing := settings.n_trials - study.counted()) > 0:
        trials = [study.ask() for _ in range(min(settings.n_jobs, missing))]
        for trial, outcome in zip(trials, _launch(sweeper, trials, study, url), strict=True):
            told = study.tell(trial.number, outcome)
            value = outcome.reason or f"{study.study.user_attrs['metric']} {outcome.value:.4g}"
            log.info("trial %d: %s, %s", trial.number, told.state.name.lower(), value)
            new += 1
        limit = settings.stop_after_failures
        if limit is not None and min(new, study.failed_in_a_row()) >= limit:
            raise ConfigError(
                f"{limit} trials in a row failed, the last one: {_reason(study)}; mend it and start the sweep again, "
                "or set hydra.sweeper.stop_after_failures"
            )


def _reason(study: SweepStudy) -> str:
    return study.trials()[-1].user_attrs.get("reason", "for no reason that is known")


def _launch(sweeper: OptunaSweeper, trials: Sequence[FrozenTrial], study: SweepStudy, url: str) -> list[Outcome]:
    """The outcomes of trials that the launcher runs together.

    A launcher raises for a whole batch when one job died: then each trial's own last words in the study count. Asked
    to stop, the sweep ends, and its trials are marked.
    """
    jobs = [_overrides(trial, study.space, study.settings, url) for trial in trials]
    try:
        returned = sweeper.launcher.launch(jobs, initial_job_idx=trials[0].number)  # type: ignore[union-attr]
    except (KeyboardInterrupt, SystemExit):
        for trial in trials:
            study.stop(trial.number)
        raise
    except Exception as error:  # not of a trial's own: a trial's come back as values
        log.exception("the launcher failed")
        return [_last_words(study, trial.number, error) for trial in trials]
    return [outcome_of(each) for each in returned]


def _overrides(trial: FrozenTrial, space: SearchSpace, settings: SweepSettings, url: str) -> list[str]:
    """Of one trial: its folder is its number, and a callback reports to the study."""
    callback = {"_target_": _CALLBACK, "storage": url, "study": settings.study, "number": trial.number}
    reporting = [f"+callbacks.trial.{key}={_quoted(value)}" for key, value in callback.items()]
    reporting.append("+callbacks.trial.metric=${optimized_metric}")
    return [*space.overrides(trial.params), *reporting, f"hydra.sweep.subdir={_quoted(str(trial.number))}"]


def _quoted(value: Any) -> str:
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)


def outcome_of(job: JobReturn) -> Outcome:
    """Of a job that ended; an error that is none of ours is logged with its traceback, NaN and None are failures."""
    value = job._return_value  # `return_value` raises what the trial raised
    if job.status != JobStatus.COMPLETED:
        if not isinstance(value, MaskcapError):
            log.error("a trial ended with an error of the program's", exc_info=value)
        return Outcome(reason=_short(value))
    if value is None:
        return Outcome(reason="it returned no value")
    if not math.isfinite(value):
        return Outcome(reason=f"the metric is {value}")
    return Outcome(value=float(value))


def _last_words(study: SweepStudy, number: int, error: Exception) -> Outcome:
    trial = study.study.get_trials(deepcopy=False)[number]
    value = trial.user_attrs.get(FINISHED)
    return Outcome(reason=_short(error)) if value is None else Outcome(value=float(value))


def _short(error: Any) -> str:
    lines = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, MaskcapError) else f"{type(error).__name__}: "
    return f"{kind}{lines[0]}"[:300]
