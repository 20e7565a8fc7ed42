"""Parts of a source: its first records, or a train and a validation part of a set that has no split of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import overload

from maskcap.data.record import Record
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class RecordRange(Sequence[Record]):
    """Records `start` to `stop` (excluded) of a source, with its `name` and `has_captions`."""

    def __init__(self, source: Sequence[Record], start: int, stop: int) -> None:
        self.source = source
        self._range = range(len(source))[start:stop]
        self.name = str(getattr(source, "name", type(source).__name__))

    @property
    def has_captions(self) -> bool:
        return source_has_captions(self.source)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.source[i] for i in self._range[index]]
        return self.source[self._range[index]]

    def __iter__(self) -> Iterator[Record]:
        return (self.source[i] for i in self._range)


def source_has_captions(source: Sequence[Record]) -> bool:
    """The source's own `has_captions`; without that property, whether any of its records has a caption."""
    known = getattr(source, "has_captions", None)
    if known is not None:
        return bool(known)
    return any(region.captions for record in source for region in record.regions1)


def hold_out(source: Sequence[Record], fraction: float) -> tuple[RecordRange, RecordRange]:
    """Train and validation parts: the last `fraction` of the records (at least one) validates.

    The cut moves back to where a file's records begin, so that no video or image is on both sides; a source of a single
    file is cut inside it, with a warning. Raises ConfigError for a fraction outside (0, 1), DataError when there are
    fewer than two records.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction={fraction}: needs a number between 0 and 1")
    name = getattr(source, "name", type(source).__name__)
    if len(source) < 2:
        raise DataError(f"source {name!r} has {len(source)} records: holding some out for validation needs at least 2")
    wanted = max(1, len(source) - max(1, round(len(source) * fraction)))
    cut = wanted
    while cut > 0 and source[cut - 1].image1.path == source[wanted].image1.path:
        cut -= 1
    if cut == 0:
        logger.warning("source %r: training and validation share the file %s", name, source[wanted].image1.path)
        cut = wanted
    return RecordRange(source, 0, cut), RecordRange(source, cut, len(source))
