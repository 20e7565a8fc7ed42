"""What a shard's index says of its groups and records: columns of equal length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Groups:
    """A shard's groups in order. Its first member is `<number, 9 digits>.json`; its data lies at `offset`, `size` bytes
    with this sha256 (hex). The files that it names follow, up to byte `end` of the tar."""

    number: Sequence[int]
    offset: Sequence[int]
    size: Sequence[int]
    end: Sequence[int]
    sha256: Sequence[str]


@dataclass(frozen=True)
class Records:
    """A shard's records, group by group. `group` counts the shard's groups from 0; a pair's regions count once.

    characters: of all texts. phrases: 1 where a caption singles its region out. captions: 1 where there is one; turns:
    how many. Of shards without turns these two are not written down: there, all texts are captions.
    """

    key: Sequence[str]
    group: Sequence[int]
    regions: Sequence[int]
    characters: Sequence[int]
    phrases: Sequence[int]
    captions: Sequence[int]
    turns: Sequence[int]

    def columns(self) -> dict[str, Sequence[Any]]:
        """Those that are written, by name."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return kept if any(self.turns) else {name: kept[name] for name in kept if name not in _OF_TURNS}

    @staticmethod
    def of(columns: Mapping[str, Sequence[Any]]) -> Records:
        """The inverse. Raises KeyError, TypeError for columns that are missing or unknown."""
        told = {"captions": [int(bool(each)) for each in columns["characters"]], "turns": [0] * len(columns["key"])}
        return Records(**{**told, **columns})


_OF_TURNS = ("captions", "turns")
