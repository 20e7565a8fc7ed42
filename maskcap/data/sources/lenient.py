"""What the sources share about bad entries: each keeps its place as a record that raises when it is asked for.

So nothing is left out in silence: `len` counts bad entries, `bad` holds their errors from the start, and whoever reads
decides whether to stop or to skip and count. Only what makes the whole set unusable is an error when it is built.
"""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from maskcap.data.record import Record
from maskcap.data.source_facts import text_size
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

Slot = TypeVar("Slot")

_NAMED = 3


class LenientSource(Sequence[Record]):
    """A sequence of records of which some may be bad: `source[i]` raises the error that `bad[i]` holds.

    Subclasses fill `bad` while they are built, then call `_settle`.
    """

    bad: dict[int, DataError]

    @property
    def has_turns(self) -> bool:
        """Whether its records hold conversations; most layouts have none."""
        return False

    @abstractmethod
    def _read(self, index: int) -> Record:
        """The record at an index that is in range and not bad. Raises DataError for what only reading finds."""

    @abstractmethod
    def key_of(self, index: int) -> str:
        """The record's key, cheaply; a bad record has one too."""

    @abstractmethod
    def image_of(self, index: int) -> Hashable:
        """What tells the images (videos) of records apart, cheaply; a bad record may be one of its own."""

    @abstractmethod
    def annotation_of(self, index: int) -> str:
        """The file (or files) that hold the record's annotation, for messages."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place in self.bad:
            # A copy: an error that is raised keeps the frames it passed, and those would pile up in `bad`.
            raise copy.copy(self.bad[place])
        return self._read(place)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def _settle(self, what: object) -> None:
        """Log how many records are bad, naming the first. Raises DataError, with the first one's, when all are."""
        for error in self.bad.values():
            # Kept for as long as the source is: the frames that they passed, and their files' content, must not be.
            for each in (error, *problems_of(error)):
                each.__traceback__ = each.__context__ = each.__cause__ = None
        if self.bad and len(self.bad) == len(self):
            first = next(iter(self.bad.values()))
            if len(self.bad) == 1:
                raise DataError(f"{what}: its only record is bad: {first}", first.reason)
            raise DataError(f"{what}: all {len(self.bad)} records are bad. The first: {first}", first.reason)
        if self.bad:
            first = "; ".join(str(error) for error in list(self.bad.values())[:_NAMED])
            rest = f" … ({len(self.bad)} in all)" if len(self.bad) > _NAMED else ""
            logger.warning("%s: %d of %d records are bad: %s%s", what, len(self.bad), len(self), first, rest)


class SlotSource(LenientSource, Generic[Slot]):
    """A source with a slot for each record: (key, what is known of it or what is wrong with it), in order.

    annotation: the file, for messages. bad: what is wrong by index; None: it is looked for in the slots. Raises
    DataError when every entry is bad.
    """

    def __init__(
        self,
        slots: Sequence[tuple[str, Slot | DataError]],
        annotation: object,
        bad: dict[int, DataError] | None = None,
    ) -> None:
        self._slots = slots
        self._annotation = str(annotation)
        found = {i: slot for i, (_, slot) in enumerate(slots) if isinstance(slot, DataError)} if bad is None else bad
        self.bad = found
        self._settle(annotation)

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        return self._slots[index][0]

    def annotation_of(self, index: int) -> str:
        """The annotation file, for messages."""
        return self._annotation

    def __len__(self) -> int:
        return len(self._slots)

    def _good(self, index: int) -> tuple[str, Slot]:
        """(key, what is known) of a record that is not bad."""
        key, slot = self._slots[index]
        assert not isinstance(slot, DataError)  # those are in `bad`
        return key, slot


class ListedSource(SlotSource[Record]):
    """A source that holds every record."""

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart; cheap. A bad record, or one without an image, is one of its own."""
        key, slot = self._slots[index]
        return slot.image1.path if isinstance(slot, Record) and slot.image1 is not None else key

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all their captions and of the turns); None for a bad record."""
        slot = self._slots[index][1]
        return text_size(slot) if isinstance(slot, Record) else None

    def _read(self, index: int) -> Record:
        return self._good(index)[1]


class RecordError(DataError):
    """Several things are wrong with one record: every message, the first one's reason; `parts`: the single errors."""

    def __init__(self, message: str, reason: str | None = None, parts: Sequence[DataError] = ()) -> None:
        super().__init__(message, reason)
        self.parts = tuple(parts)


def joined(problems: Sequence[DataError]) -> DataError:
    """One error for everything that is wrong with a record."""
    if len(problems) == 1:
        return problems[0]
    messages = " ".join(dict.fromkeys(str(problem) for problem in problems))
    return RecordError(messages, problems[0].reason, problems)


def problems_of(error: DataError) -> tuple[DataError, ...]:
    """The single errors in one that `joined` made; any other error is its own only one."""
    return getattr(error, "parts", ()) or (error,)
