"""A source whose records are put together when they are asked for: what that takes is kept, and no more."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from maskcap.data.record import Record
from maskcap.data.sources.lenient import LenientSource
from maskcap.errors import DataError


class Plan(Protocol):
    """What is known of a good record before it is asked for."""

    @property
    def image(self) -> Hashable:
        """What tells its image (video) from others; None: it has none."""
        ...

    @property
    def text_size(self) -> tuple[int, int]:
        """(number of regions, characters of all texts)."""
        ...

    def record(self, key: str) -> Record:
        """The record. Raises DataError for what only reading files, such as an image's header, finds."""
        ...


class PlannedSource(LenientSource):
    """`slots` are (key, its plan or what is wrong with the entry), in order; annotation: the file, for messages.

    Raises DataError when every entry is bad.
    """

    def __init__(self, slots: Sequence[tuple[str, Plan | DataError]], annotation: object) -> None:
        self._slots = slots
        self._annotation = str(annotation)
        self.bad = {i: slot for i, (_, slot) in enumerate(slots) if isinstance(slot, DataError)}
        self._settle(annotation)

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        return self._slots[index][0]

    def image_of(self, index: int) -> Hashable:
        """What tells the images (videos) of records apart; reads nothing.

        A bad record, or one without an image, is one of its own.
        """
        key, slot = self._slots[index]
        return key if isinstance(slot, DataError) or slot.image is None else slot.image

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all texts); None for a bad record. Reads nothing."""
        slot = self._slots[index][1]
        return None if isinstance(slot, DataError) else slot.text_size

    def annotation_of(self, index: int) -> str:
        """The annotation file, for messages."""
        return self._annotation

    def __len__(self) -> int:
        return len(self._slots)

    def _read(self, index: int) -> Record:
        key, slot = self._slots[index]
        assert not isinstance(slot, DataError)  # those are in `bad`
        return slot.record(key)


class TurnsSource(PlannedSource):
    """A planned source of conversations, whose regions, if there are any, have no captions."""

    @property
    def has_captions(self) -> bool:
        """Never: only the turns speak of regions."""
        return False

    @property
    def has_phrases(self) -> bool:
        """Never: only the turns speak of regions."""
        return False

    @property
    def has_turns(self) -> bool:
        """Always: every record is a conversation."""
        return True
