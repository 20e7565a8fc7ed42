"""Histograms that take values one by one: their memory does not grow with the data set.

Counts, least, most and mean are exact; a median is known as the bin that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

EXACT = 32  # whole numbers below have a bin each
_STEPS = 16  # bins for each doubling beyond, all equally wide


class Histogram:
    """Running counts of numbers in bins `edges[i] ≤ value < edges[i + 1]` (the last bin has its upper edge too).

    edges: float, ascending, two or more. Values beyond them are counted as `below` and `above`, never moved.
    """

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        self.counts = np.zeros(self.edges.size - 1, np.int64)
        self.below = 0
        self.above = 0
        self.total = 0.0
        self.least = math.inf
        self.most = -math.inf

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self.counts.sum()) + self.below + self.above

    def add(self, values: Iterable[float]) -> None:
        """Count finite values."""
        numbers = np.fromiter(values, np.float64)
        if numbers.size == 0:
            return
        bins = np.searchsorted(self.edges, numbers, side="right") - 1
        bins[numbers == self.edges[-1]] = self.counts.size - 1
        inside = (bins >= 0) & (bins < self.counts.size)
        self.counts += np.bincount(bins[inside], minlength=self.counts.size)
        self.below += int((bins < 0).sum())
        self.above += int((bins >= self.counts.size).sum())
        self.total += float(numbers.sum())
        self.least = min(self.least, float(numbers.min()))
        self.most = max(self.most, float(numbers.max()))

    def merge(self, other: Histogram) -> None:
        """Count what the other one counted; both have the same edges."""
        self.counts += other.counts
        self.below += other.below
        self.above += other.above
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def median_bin(self) -> tuple[float, float] | None:
        """The bin (its edges, or the least or most value beyond them) of the lower median; None without values."""
        if self.count == 0:
            return None
        rank = (self.count - 1) // 2
        if rank < self.below:
            return self.least, float(self.edges[0])
        inside = np.cumsum(self.counts) + self.below
        if rank >= inside[-1]:
            return float(self.edges[-1]), self.most
        place = int(np.searchsorted(inside, rank, side="right"))
        return float(self.edges[place]), float(self.edges[place + 1])

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; least, most and mean are None without values."""
        some = self.count > 0
        return {
            "count": self.count,
            "least": self.least if some else None,
            "most": self.most if some else None,
            "mean": self.total / self.count if some else None,
            "median_between": self.median_bin(),
            "below": self.below,
            "above": self.above,
            "edges": [float(edge) for edge in self.edges],
            "counts": self.counts.tolist(),
        }


def whole_number_edges(most: int) -> np.ndarray:
    """Edges for counts: a bin for each of 0 … 31, then 16 for each doubling (32, 34 … 64, 68 …), to `most` or more."""
    edges = [np.arange(EXACT)]
    start = EXACT
    while start < most:
        edges.append(np.arange(start, 2 * start, start // _STEPS))
        start *= 2
    return np.append(np.concatenate(edges), start)


def ratio_edges(least: float, most: float, per_factor: int, factor: float = 2.0) -> np.ndarray:
    """Edges on a logarithmic scale: `per_factor` bins for each `factor`, from `least` to `most` exactly."""
    steps = round(per_factor * math.log(most / least, factor))
    return least * (most / least) ** (np.arange(steps + 1) / steps)
