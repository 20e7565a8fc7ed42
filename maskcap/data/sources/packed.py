"""Conversations by the hundred thousand, kept as bytes and parsed when they are asked for.

Python objects would take several times the memory, and a forked worker that reads them writes their reference counts,
so that every worker ends with a copy of all of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from maskcap.data.record import Record, Turn
from maskcap.data.shards.texts import Texts
from maskcap.data.sources.planned import TurnsSource
from maskcap.errors import DataError


@dataclass(frozen=True)
class Talk(ABC):
    """A conversation and the file of its image or video; None: it has none. Layouts say how that becomes a record."""

    image: Path | None
    turns: tuple[Turn, ...]

    @property
    def text_size(self) -> tuple[int, int]:
        """(0 regions, characters of all texts)."""
        return 0, sum(len(turn.question) + len(turn.answer) for turn in self.turns)

    @abstractmethod
    def record(self, key: str) -> Record:
        """The record; reads what its file alone says, such as a size. Raises DataError."""


class TalkSource(TurnsSource):
    """A source whose plans are `Talk`s without phrases, of the subclass `kind`; `slots` are read once, in order."""

    def __init__(self, slots: Iterable[tuple[str, Talk | DataError]], annotation: object, kind: type[Talk]) -> None:
        packed = _PackedTalks(slots, kind)
        super().__init__(packed, annotation, packed.errors)


class _PackedTalks(Sequence[tuple[str, Talk | DataError]]):
    """(key, talk or what is wrong with it) as two arrays of bytes; `errors` are those of bad ones, by index."""

    def __init__(self, slots: Iterable[tuple[str, Talk | DataError]], kind: type[Talk]) -> None:
        self.errors: dict[int, DataError] = {}
        self._kind = kind
        keys, talks = [], []
        for index, (key, slot) in enumerate(slots):
            keys.append(key)
            if isinstance(slot, DataError):
                self.errors[index] = slot
            talks.append("" if isinstance(slot, DataError) else _pack(slot))
        self._keys, self._talks = Texts(keys), Texts(talks)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Talk | DataError]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, Talk | DataError]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, Talk | DataError] | list[tuple[str, Talk | DataError]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place in self.errors:
            return self._keys[place], self.errors[place]
        image, *texts = json.loads(self._talks[place])
        turns = tuple(Turn(*pair) for pair in zip(texts[::2], texts[1::2], strict=True))
        return self._keys[place], self._kind(None if image is None else Path(image), turns)

    def __len__(self) -> int:
        return len(self._keys)


def _pack(talk: Talk) -> str:
    texts = [text for turn in talk.turns for text in (turn.question, turn.answer)]
    return json.dumps([None if talk.image is None else str(talk.image), *texts], ensure_ascii=False)
