"""The settings of a sweep, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from omegaconf import OmegaConf

from maskcap.errors import ConfigError
from maskcap.signatures import describe, did_you_mean, fits

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_WHERE = "hydra.sweeper"


@dataclass(frozen=True)
class SamplerSettings:
    """name: what proposes trials; startup_trials: drawn at random before TPE models what was finished."""

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = 10

    def build(self, seed: int) -> BaseSampler:
        """Of this seed."""
        from optuna.samplers import RandomSampler, TPESampler

        if self.name == "random":
            return RandomSampler(seed=seed)
        return TPESampler(n_startup_trials=self.startup_trials, seed=seed)


@dataclass(frozen=True)
class PrunerSettings:
    """What ends bad trials early: worse than the `median` of the others at the same validation, or not among the best
    quarter at the first validation after the warm-up, at its fourfold, … (`halving`).

    startup_trials: finished ones before the median is trusted; warmup: validations that end no trial.
    """

    name: Literal["median", "halving", "none"] = "median"
    startup_trials: int = 5
    warmup: int = 0

    def build(self) -> BasePruner:
        """Optuna's pruner; its steps are the validations of a trial, from 1."""
        from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

        if self.name == "median":
            return MedianPruner(n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup + 1)
        if self.name == "halving":
            return SuccessiveHalvingPruner(min_resource=self.warmup + 1)
        return NopPruner()


@dataclass(frozen=True)
class SweepSettings:
    """As conf/hydra/sweeper/optuna.yaml explains them, but for `params`."""

    study: str
    storage: str | None
    n_trials: int
    n_jobs: int
    direction: Literal["maximize", "minimize"]
    seed: int
    sampler: SamplerSettings
    pruner: PrunerSettings
    retries: int
    stop_after_failures: int | None

    def __post_init__(self) -> None:
        for name, least in (("n_trials", 1), ("n_jobs", 1), ("retries", 0), ("stop_after_failures", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{_WHERE}.{name} must be at least {least}, not {value}")
        if not self.study or "/" in self.study:
            raise ConfigError(f"{_WHERE}.study must be a name without '/', not {self.study!r}: it names a folder")


def read_settings(given: Mapping[str, Any], config: DictConfig) -> SweepSettings:
    """The sweeper's arguments with nested ones as dataclasses, and the direction of the configuration.

    Raises ConfigError for an unknown key, a wrong type, or a direction that nothing says.
    """
    values = dict(given)
    if values["direction"] is None:
        values["direction"] = _direction(config)
    values["sampler"] = _filled(SamplerSettings, values["sampler"], f"{_WHERE}.sampler")
    values["pruner"] = _filled(PrunerSettings, values["pruner"], f"{_WHERE}.pruner")
    return _filled(SweepSettings, values, _WHERE)


def as_dict(settings: SamplerSettings | PrunerSettings) -> dict[str, Any]:
    """Plain values, for the study."""
    return asdict(settings)


def _direction(config: DictConfig) -> str:
    mode = OmegaConf.select(config, "callbacks.checkpoint.mode")
    if mode not in ("max", "min"):
        raise ConfigError(
            f"{_WHERE}.direction is null and callbacks.checkpoint.mode is {mode}: say {_WHERE}.direction=maximize"
        )
    return {"max": "maximize", "min": "minimize"}[mode]


def _filled(kind: type, given: Any, where: str) -> Any:
    values = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    known, hints = [field.name for field in fields(kind)], get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping, not {values!r}")
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown key '{where}.{key}'{did_you_mean(str(key), known) or '.'} {', '.join(known)}")
        if not isinstance(value, (SamplerSettings, PrunerSettings)) and not fits(value, hints[key]):
            raise ConfigError(f"{where}.{key} must be {describe(hints[key])}, not {value!r}")
    return kind(**{str(key): value for key, value in values.items()})
