"""Millions of short strings: kept in one array, and searched for repeats by their hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np


class Texts:
    """A read-only list of strings in one array of bytes: a few bytes each beside their characters."""

    def __init__(self, texts: Sequence[str]) -> None:
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = np.frombuffer(b"".join(data), np.uint8)
        self._ends = np.cumsum([len(each) for each in data], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def joined(parts: Sequence[Texts]) -> Texts:
        """One list after the other."""
        whole = Texts(())
        if parts:
            starts = np.cumsum([0, *(part._bytes.size for part in parts[:-1])])
            whole._bytes = np.concatenate([part._bytes for part in parts])
            whole._ends = np.concatenate([part._ends + start for part, start in zip(parts, starts, strict=True)])
        return whole


def repeats(count: int, key_of: Callable[[int], str], hashes: np.ndarray | None = None) -> dict[int, int]:
    """Index → the first index with the same key, for every later one; 8 bytes a key while it looks.

    hashes: int64 (count,), Python's `hash` of each key, from a caller that has been through all of them.
    """
    if hashes is None:
        hashes = np.fromiter((hash(key_of(i)) for i in range(count)), np.int64, count)
    order = np.argsort(hashes, kind="stable")
    alike = hashes[order[1:]] == hashes[order[:-1]]
    suspects = order[np.unique(np.concatenate([np.flatnonzero(alike), np.flatnonzero(alike) + 1]))]
    first: dict[str, int] = {}
    found = {}
    for index in sorted(int(i) for i in suspects):
        earlier = first.setdefault(key_of(index), index)
        if earlier != index:
            found[index] = earlier
    return found
