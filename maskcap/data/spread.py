"""Interleaving kinds of things as evenly as their numbers allow."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np


@functools.lru_cache(maxsize=4)
def spread_evenly(counts: tuple[int, ...]) -> np.ndarray:
    """int64 (sum of counts,), read-only: kind i counts[i] times, so that every stretch is mixed as the whole is.

    With k kinds of a positive count, any n consecutive places (the end going on at the beginning) hold n · counts[i] /
    sum to within 2 - 1 / (k - 1): Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32,
    1980), the best bound there is for the first n places. Within 1, as it is for two kinds, is impossible for more:
    11, 7 and 3 cannot be arranged so.
    """
    kinds = [kind for kind, count in enumerate(counts) if count > 0]
    shared = math.gcd(*counts) or 1
    period = [counts[kind] // shared for kind in kinds]
    if len(kinds) <= 2:
        middles = np.concatenate([(np.arange(count) + 0.5) / count for count in period]) if kinds else np.empty(0)
        places = np.repeat(np.arange(len(kinds)), period)[np.argsort(middles, kind="stable")]
    else:
        places = np.fromiter(_chairmen(period), np.int64, sum(period))
    order = np.tile(np.asarray(kinds, np.int64)[places], shared)
    order.flags.writeable = False
    return order


def _chairmen(counts: list[int]) -> Iterator[int]:
    """Of the kinds that may come already, the one that must come first; exact, in whole numbers.

    With w = 2k - 2, kind i may come for the (x + 1)-th time at place n (from 1) once counts[i] · n / total is x + 1 / w
    or more, and must have come before it is more than x + 1 - 1 / w.
    """
    total, w = sum(counts), 2 * len(counts) - 2
    given = [0] * len(counts)
    may = [-(-total // (w * count)) for count in counts]
    must = [(w - 1) * total // (w * count) for count in counts]
    for place in range(1, total + 1):
        kind = min((i for i in range(len(counts)) if may[i] <= place), key=must.__getitem__)
        yield kind
        given[kind] += 1
        may[kind] = -(-(w * given[kind] + 1) * total // (w * counts[kind]))
        must[kind] = (w * (given[kind] + 1) - 1) * total // (w * counts[kind])
