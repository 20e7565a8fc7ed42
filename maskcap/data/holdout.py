"""Parts of a source: its first records, or a train and a validation part of a set that has no split of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import overload

from maskcap.data.record import Record
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class RecordSubset(Sequence[Record]):
    """The records of a source at `indices` (those beyond its end are left out), with its `name` and `has_…`."""

    def __init__(self, source: Sequence[Record], indices: Sequence[int]) -> None:
        self.source = source
        count = len(source)
        self._indices = indices if not indices or max(indices) < count else [i for i in indices if i < count]
        self.name = str(getattr(source, "name", type(source).__name__))

    @property
    def has_captions(self) -> bool:
        """Whether the source under it has captions at all."""
        return source_has_captions(self.source)

    @property
    def has_phrases(self) -> bool:
        """Whether the source under it has phrases that single a region out."""
        return source_has_phrases(self.source)

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart."""
        return _image_of(self.source, self._indices[index])

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.source[i] for i in self._indices[index]]
        return self.source[self._indices[index]]

    def __iter__(self) -> Iterator[Record]:
        return (self.source[i] for i in self._indices)


def source_has_captions(source: Sequence[Record]) -> bool:
    """The source's own `has_captions`; without that property, whether any of its records has a caption."""
    known = getattr(source, "has_captions", None)
    if known is not None:
        return bool(known)
    return any(region.captions for record in source for region in record.regions1)


def source_has_phrases(source: Sequence[Record]) -> bool:
    """The source's own `has_phrases`; without that property, whether a caption of its records singles a region out."""
    known = getattr(source, "has_phrases", None)
    if known is not None:
        return bool(known)
    return any(region.captions and region.referring for record in source for region in record.regions1)


def hold_out(source: Sequence[Record], fraction: float) -> tuple[RecordSubset, RecordSubset]:
    """Train and validation parts: the last images with at least `fraction` of the records (one or more) validate.

    Whole images (videos) are held out, with all their records wherever these stand, so that none is on both sides; both
    parts keep the source's order. A source of a single image is cut inside it, with a warning. Raises ConfigError for a
    fraction outside (0, 1), DataError when there are fewer than two records.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction={fraction}: needs a number between 0 and 1")
    count, name = len(source), getattr(source, "name", type(source).__name__)
    if count < 2:
        raise DataError(f"source {name!r} has {count} records: holding some out for validation needs at least 2")
    wanted = max(1, round(count * fraction))
    images = [_image_of(source, i) for i in range(count)]
    records_of = Counter(images)
    if len(records_of) == 1:
        logger.warning("source %r: training and validation share the file %s", name, images[0])
        cut = max(1, count - wanted)
        return RecordSubset(source, range(cut)), RecordSubset(source, range(cut, count))
    held: set[Hashable] = set()
    held_records = 0
    for image in reversed(images):
        if held_records >= wanted or len(held) == len(records_of) - 1:
            break
        if image not in held:
            held.add(image)
            held_records += records_of[image]
    train = [i for i in range(count) if images[i] not in held]
    val = [i for i in range(count) if images[i] in held]
    return RecordSubset(source, _compact(train)), RecordSubset(source, _compact(val))


def _image_of(source: Sequence[Record], index: int) -> Hashable:
    """The source's own `image_of`, which reads no annotation; else the path of the record's image."""
    image_of = getattr(source, "image_of", None)
    return source[index].image1.path if image_of is None else image_of(index)


def _compact(indices: list[int]) -> Sequence[int]:
    """The same numbers, as a range where they are one: worker processes get a copy."""
    whole = range(indices[0], indices[-1] + 1)
    return whole if len(whole) == len(indices) else indices
