"""The search space: overrides of Hydra's syntax as Optuna's distributions, and a trial's values as overrides again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


@dataclass(frozen=True)
class SearchSpace:
    """distributions: by the override's key, with its `+`; fixed: overrides that every trial has, as they were given.

    Values of a choice are kept as the text of an override (`choice(1e-3, [1, 2])` → "0.001", "[1,2]").
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: tuple[Override, ...]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """`key=value` of every fixed and every searched key; `values` by key, as Optuna holds them."""
        given = [each.input_line or "" for each in self.fixed]
        return [*given, *(f"{key}={_text(values[key])}" for key in self.distributions)]

    def probes(self) -> list[list[str]]:
        """A few trials that together have every choice once: whether they compose."""
        firsts: dict[str, Sequence[Any]] = {}
        for key, each in self.distributions.items():
            firsts[key] = each.choices if isinstance(each, CategoricalDistribution) else [each.low]  # type: ignore[attr-defined]
        count = max(len(values) for values in firsts.values())
        return [self.overrides({key: vs[i % len(vs)] for key, vs in firsts.items()}) for i in range(count)]

    def describe(self) -> dict[str, Any]:
        """JSON that two equal spaces share, by key."""
        return {key: json.loads(distribution_to_json(each)) for key, each in self.distributions.items()}


def read_space(params: Mapping[str, str], arguments: Sequence[str], loader: ConfigLoader) -> SearchSpace:
    """Of the sweep's file and the command line; a key that both have is the command line's.

    Raises ConfigError for an empty space, or a sweep that Optuna has no distribution for.
    """
    parser = OverridesParser.create(config_loader=loader)
    lines = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    latest: dict[str, Override] = {}
    for override in parser.parse_overrides(lines):
        key = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        latest[key] = override
    searched = {each.get_key_element(): distribution(each) for each in latest.values() if each.is_sweep_override()}
    if not searched:
        raise ConfigError(
            "nothing to search: give sweep=NAME (conf/sweep/), or intervals and choices: "
            "'optimizer.lr=tag(log, interval(1e-4, 1e-2))'"
        )
    return SearchSpace(searched, tuple(each for each in latest.values() if not each.is_sweep_override()))


def distribution(override: Override) -> BaseDistribution:
    """Of one swept override: intervals (`int(...)` and `tag(log, ...)` too), ranges (end left out, as Hydra has it)
    and choices. Raises ConfigError for empty or reversed ones, and logarithms of what is not positive."""
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(value.start, value.end, log="log" in value.tags)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep):
            numbers = sorted(value.range())  # type: ignore[arg-type]
            if not numbers:
                raise ValueError("it holds no value")
            if isinstance(numbers[0], int):
                return IntDistribution(numbers[0], numbers[-1], step=abs(int(value.step)))
            return FloatDistribution(numbers[0], numbers[-1], step=abs(float(value.step)))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{override.input_line}' is no search space: {error}") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
