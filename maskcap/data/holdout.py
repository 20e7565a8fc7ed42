"""Parts of a source: its first records, or a train and a validation part of a set that has no split of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import overload

import numpy as np

from maskcap.data.record import Record
from maskcap.data.source_facts import (
    blocks_of,
    image_of,
    known_bad,
    source_has_captions,
    source_has_phrases,
    source_name,
)
from maskcap.data.source_view import SourceView
from maskcap.errors import ConfigError, DataError

__all__ = ["RecordSubset", "hold_out", "source_has_captions", "source_has_phrases"]

logger = logging.getLogger(__name__)


class RecordSubset(SourceView):
    """The records of a source at `indices` (those beyond its end are left out), with what the source says of them; what
    it left out itself (`skipped`) is of the whole set, as whose part an entry would have been is unknown."""

    def __init__(self, source: Sequence[Record], indices: Sequence[int]) -> None:
        super().__init__(source)
        count = len(source)
        if indices and max(indices) >= count:
            run = isinstance(indices, range) and indices.step == 1
            indices = range(indices[0], count) if run else [i for i in indices if i < count]
        self._indices = indices

    def _under(self, index: int) -> int:
        return self._indices[index]

    @property
    def bad(self) -> dict[int, DataError]:
        """Index here → error of the records that the source under it knows to be bad."""
        bad = known_bad(self.source)
        return {here: bad[there] for here, there in enumerate(self._indices) if there in bad} if bad else {}

    @property
    def blocks(self) -> Sequence[int] | None:
        """How many of these records lie in each shard of the source under it, shards without any left out.

        None where that source has no shards, or the records are not in its order.
        """
        blocks = blocks_of(self.source)
        indices = np.asarray(self._indices)
        if blocks is None or (np.diff(indices) < 0).any():
            return None
        shards = np.searchsorted(np.cumsum(blocks), indices, side="right")
        counts = np.bincount(shards, minlength=len(blocks))
        return counts[counts > 0].tolist()

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


def hold_out(source: Sequence[Record], fraction: float) -> tuple[RecordSubset, RecordSubset]:
    """Train and validation parts: the last images with at least `fraction` of the records (one or more) validate.

    Whole images (videos) are held out, with all their records wherever these stand, so that none is on both sides; both
    parts keep the source's order. Images with a record known to be bad stay in the training part: a lost shard must
    not be all of the validation. A source of a single image is cut inside it, with a warning. Raises ConfigError for a
    fraction outside (0, 1), DataError when there are fewer than two records.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction={fraction}: needs a number between 0 and 1")
    count, name = len(source), source_name(source)
    if count < 2:
        raise DataError(
            f"source {name!r} has {count} records: holding some out for validation needs at least 2. Add more, or use "
            "its training part alone"
        )
    wanted = max(1, round(count * fraction))
    images = [image_of(source, i) for i in range(count)]
    records_of = Counter(images)
    if len(records_of) == 1:
        logger.warning("source %r: training and validation share its only image or video", name)
        cut = max(1, count - wanted)
        return RecordSubset(source, range(cut)), RecordSubset(source, range(cut, count))
    held: set[Hashable] = set()
    held_records = 0
    bad = {images[i] for i in known_bad(source)}
    for image in reversed(images):
        if held_records >= wanted or len(held) == len(records_of) - 1:
            break
        if image not in held and image not in bad:
            held.add(image)
            held_records += records_of[image]
    if not held:
        raise DataError(f"source {name!r}: every image has a bad record; none is left to hold out for validation")
    train = [i for i in range(count) if images[i] not in held]
    val = [i for i in range(count) if images[i] in held]
    return RecordSubset(source, _compact(train)), RecordSubset(source, _compact(val))


def _compact(indices: list[int]) -> Sequence[int]:
    """The same numbers, as a range where they are one: worker processes get a copy."""
    whole = range(indices[0], indices[-1] + 1)
    return whole if len(whole) == len(indices) else indices
