"""A source whose records are put together when they are asked for: what that takes is kept, and no more."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from maskcap.data.record import Record
from maskcap.data.sources.lenient import SlotSource
from maskcap.errors import DataError


class Plan(Protocol):
    """What is known of a good record before it is asked for."""

    @property
    def image(self) -> Hashable:
        """What tells its image (video) from others; None: it has none."""
        ...

    @property
    def text_size(self) -> tuple[int, int] | None:
        """(number of regions, characters of all texts); None: unknown before the record is put together."""
        ...

    def record(self, key: str) -> Record:
        """The record. Raises DataError for what only reading files, such as an image's header, finds."""
        ...


class PlannedSource(SlotSource[Plan]):
    """A source that holds a plan of every record."""

    def image_of(self, index: int) -> Hashable:
        """What tells the images (videos) of records apart; reads nothing.

        A bad record, or one without an image, is one of its own.
        """
        key, slot = self._slots[index]
        return key if isinstance(slot, DataError) or slot.image is None else slot.image

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all texts); None for a bad record, or unknown. Reads nothing."""
        slot = self._slots[index][1]
        return None if isinstance(slot, DataError) else slot.text_size

    def _read(self, index: int) -> Record:
        key, plan = self._good(index)
        return plan.record(key)


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
