"""Named sources as a configuration gives them: how to build each one, and its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from maskcap.data.record import Record
from maskcap.errors import ConfigError, DataError

MakeSource: TypeAlias = Callable[[], Sequence[Record]]


@dataclass(frozen=True)
class SourceEntry:
    """A source, built when it is first needed, and its share of the training epoch (unused in evaluation)."""

    source: MakeSource
    weight: float = 1.0


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


def _parse_entry(given: object, where: str) -> SourceEntry:
    if isinstance(given, SourceEntry):
        made = given
    elif isinstance(given, Mapping):
        unknown = sorted(str(name) for name in given if name not in ("source", "weight"))
        if unknown or "source" not in given:
            raise ConfigError(f'{where}: expected "source" and maybe "weight", got {sorted(map(str, given))}')
        made = SourceEntry(given["source"], float(given.get("weight", 1.0)))
    else:
        made = SourceEntry(given)  # type: ignore[arg-type]
    if not callable(made.source):
        raise ConfigError(
            f"{where}: the source is a {type(made.source).__name__}, not a callable that builds one "
            "(in a config: `_partial_: true`; in Python: `lambda: source`)"
        )
    return made
