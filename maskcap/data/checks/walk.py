"""Every record of several sources, in order, read by worker processes; the same result whatever their number."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from maskcap.data.bad_samples import BadSample
from maskcap.data.checks.inspect import Grids, inspect_record
from maskcap.data.checks.statistics import Statistics
from maskcap.data.record import Record
from maskcap.data.source_facts import annotation_of
from maskcap.errors import DataError

# Neighbours go to one worker: frames of a video, whose decoder it keeps open, and records of one annotation file.
_LEAST, _MOST = 4, 16


@dataclass
class Chunk:
    """What neighbouring records of source number `source` hold.

    keys, of each record: 64 bits that stand for its key, 0 where it could not be read. bad, of each: 1 with a problem.
    files: 64 bits for each image file of each record.
    """

    source: int
    statistics: Statistics
    problems: list[BadSample] = field(default_factory=list)
    keys: array[int] = field(default_factory=lambda: array("Q"))
    bad: bytearray = field(default_factory=bytearray)
    files: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True)
class _Chunks(Dataset):
    """Chunk i of all sources together."""

    sources: Sequence[Sequence[Record]]
    grids: Grids
    size: int
    ends: Sequence[int]  # of each source's chunks

    def __getitem__(self, index: int) -> Chunk:
        number = bisect_right(self.ends, index)
        source = self.sources[number]
        start = (index - (self.ends[number - 1] if number else 0)) * self.size
        records = range(start, min(start + self.size, len(source)))
        chunk = Chunk(number, Statistics())
        for i in records:
            inspected = inspect_record(source, i, self.grids, chunk.statistics)
            chunk.problems += inspected.problems
            chunk.keys.append(0 if inspected.record is None else _name(inspected.record.key))
            chunk.bad.append(bool(inspected.problems))
            chunk.files.extend(_files(inspected.record))
        return chunk

    def __len__(self) -> int:
        return self.ends[-1]


def walk(sources: Sequence[Sequence[Record]], grids: Grids, workers: int) -> Iterator[Chunk]:
    """Chunks of all records, source after source, in order. Workers read ahead by two chunks each.

    They are started before this returns. Raises RuntimeError when one dies.
    """
    # Not by the number of workers: where chunks end decides how sums of floats are rounded.
    size = min(_MOST, max(_LEAST, sum(map(len, sources)) // 64))
    ends = list(accumulate(-(-len(source) // size) for source in sources))
    loader: Any = DataLoader(_Chunks(sources, grids, size, ends), batch_size=None, num_workers=workers)
    return iter(loader)


@dataclass
class SourceReport:
    """A source's statistics as its chunks come in. Memory: about 17 bytes a record, for duplicate keys and files."""

    source: Sequence[Record]
    statistics: Statistics = field(default_factory=Statistics)
    files: int = 0
    _keys: array[int] = field(default_factory=lambda: array("Q"))
    _bad: bytearray = field(default_factory=bytearray)
    _files: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, chunk: Chunk) -> None:
        """Take the source's next chunk."""
        self.statistics.merge(chunk.statistics)
        self._keys.extend(chunk.keys)
        self._bad.extend(chunk.bad)
        self._files.extend(chunk.files)

    def finish(self) -> list[BadSample]:
        """Count distinct files, and find keys that came before; each record that repeats one is a problem."""
        self.files = int(np.unique(np.frombuffer(self._files, np.uint64)).size) if self._files else 0
        problems = []
        for index, key, earlier in _repeated(self.source, self._keys):
            self.statistics.counts["bad_records"] += not self._bad[index]
            annotation = annotation_of(self.source, index)
            problems.append(
                BadSample(
                    key,
                    "duplicate key",
                    f"{key}: record {index} has the key of record {earlier}; keys must be unique. Remove one of them"
                    + (f" from {annotation}." if annotation else "."),
                )
            )
        for problem in problems:
            self.statistics.note(problem)
        return problems


def _repeated(source: Sequence[Record], names: array[int]) -> Iterator[tuple[int, str, int]]:
    """(index, key, index of the first record with it) of records whose key came before, in order."""
    if not names:
        return
    values, counts = np.unique(np.frombuffer(names, np.uint64), return_counts=True)
    several = values[(counts > 1) & (values != 0)]
    seen: dict[str, int] = {}
    for index in np.flatnonzero(np.isin(np.frombuffer(names, np.uint64), several)):
        try:
            key = source[int(index)].key  # names of 64 bits may be equal by chance
        except DataError:  # it could be read before; its file is gone meanwhile
            continue
        if key in seen:
            yield int(index), key, seen[key]
        seen.setdefault(key, int(index))


def _files(record: Record | None) -> Iterator[int]:
    if record is not None:
        yield from sorted(_name(str(path)) for path in {ref.path for ref in record.image_refs})


def _name(text: str) -> int:
    """64 bits, never 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1
