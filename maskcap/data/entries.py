"""Named sources as a configuration gives them: how to build each one, and its weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from maskcap.data.record import Record
from maskcap.errors import ConfigError, DataError

MakeSource: TypeAlias = Callable[[], Sequence[Record]]


@dataclass(frozen=True)
class SourceEntry:
    """A source, built when it is first needed, and its share of the training epoch (unused in evaluation).

    weight: its share on any scale. repeats: instead, how often an epoch goes through the source (5: five times).
    Raises ConfigError for both at once, and for negative or infinite numbers.
    """

    source: MakeSource
    weight: float | None = None
    repeats: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and self.repeats is not None:
            raise ConfigError(f"weight={self.weight} and repeats={self.repeats} of one source: give one of the two")
        for name, value in (("weight", self.weight), ("repeats", self.repeats)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value} of a source: needs a finite number, 0 or more")


Entries: TypeAlias = Mapping[str, "SourceEntry | Mapping[str, Any] | MakeSource"]


def parse_entries(given: Entries, where: str) -> dict[str, SourceEntry]:
    """Every form of entry → SourceEntry. Raises ConfigError, naming `where` and the entry, for anything else."""
    return {str(name): _parse_entry(entry, f"{where}.{name}") for name, entry in given.items()}


def build_source(entry: SourceEntry, where: str) -> Sequence[Record]:
    """Build one source. Raises DataError, naming `where`, when it has no records."""
    source = entry.source()
    if len(source) == 0:
        raise DataError(f"{where}: the source has no records; check its root, split and filters")
    return source


def shares(
    entries: Mapping[str, SourceEntry], lengths: Mapping[str, int], temperature: float | None = None
) -> tuple[dict[str, float], int]:
    """Weights of the sources in a mixture, and the samples of an epoch that goes with them.

    By weights (1 where none is given), an epoch being as long as all sources together. With a temperature T, weights
    are multiplied by length ** (1 / T): T = 1 draws by size, a large T evenly. With `repeats` on any source, each
    source comes `repeats` times its length (once where none is given), and an epoch has just these samples.
    Raises ConfigError for a temperature that is not positive, or for weights or a temperature beside repeats.
    """
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"data.temperature={temperature}: needs a positive number, or null")
    whole = sum(lengths.values())
    if all(entry.repeats is None for entry in entries.values()):
        weights = {name: 1.0 if entry.weight is None else float(entry.weight) for name, entry in entries.items()}
        if temperature is not None:
            weights = {name: weight * lengths[name] ** (1 / temperature) for name, weight in weights.items()}
        return weights, whole
    weighted = [name for name, entry in entries.items() if entry.weight is not None]
    if weighted or temperature is not None:
        other = f"weights ({', '.join(weighted)})" if weighted else f"temperature={temperature}"
        raise ConfigError(f"data.train has sources with repeats, and {other}: mix by one of them")
    times = {name: 1.0 if entry.repeats is None else float(entry.repeats) for name, entry in entries.items()}
    weights = {name: repeats * lengths[name] for name, repeats in times.items()}
    return weights, round(sum(weights.values()))


def _parse_entry(given: object, where: str) -> SourceEntry:
    if isinstance(given, SourceEntry):
        made = given
    elif isinstance(given, Mapping):
        unknown = sorted(str(name) for name in given if name not in ("source", "weight", "repeats"))
        if unknown or "source" not in given:
            raise ConfigError(
                f'{where}: expected "source" and maybe "weight" or "repeats", got {sorted(map(str, given))}'
            )
        made = SourceEntry(given["source"], _number(given.get("weight")), _number(given.get("repeats")))
    else:
        made = SourceEntry(given)  # type: ignore[arg-type]
    if not callable(made.source):
        raise ConfigError(
            f"{where}: the source is a {type(made.source).__name__}, not a callable that builds one "
            "(in a config: `_partial_: true`; in Python: `lambda: source`)"
        )
    return made


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
