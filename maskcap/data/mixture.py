"""The order in which an epoch draws from weighted sources: a function of (seed, epoch), not of workers or ranks."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from maskcap.data.spread import spread_evenly
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Last words of the generators' seeds, so that no two purposes share a stream.
_SHUFFLE, _INTERLEAVE, _SAMPLE = 1, 2, 3


class Draw(NamedTuple):
    """One training example to make: record `index` of source number `source`, at `position` of `epoch`'s order."""

    epoch: int
    position: int
    source: int
    index: int


@dataclass(frozen=True)
class Mixture:
    """Named sources with their lengths (records) and weights (shares of an epoch on any scale; 0: left out).

    Each source has an endless stream of shuffled passes over its records; an epoch takes the next `quota` of each and
    interleaves them, at random or evenly (`spread`). So nothing repeats before its source is used up, over epochs too,
    and with one source and `samples_per_epoch` its length an epoch is exactly one pass.

    blocks: for sources that lie in shards, the records of each shard in order. shuffle_window: None shuffles a whole
    source; n shuffles its shards, and the records of each n shards that follow each other among themselves, so that
    disks and networks are read n shards at a time. Both are part of the order.

    spread: interleave the sources as evenly as their quotas allow, from a place in the pattern that is drawn for each
    epoch. Of k sources with quotas above 0, any n consecutive draws then hold each one's share of n to within
    2 - 1 / (k - 1): to within 1 for two sources (see `spread_evenly`). What is drawn of each source stays the same.
    """

    lengths: Mapping[str, int]
    weights: Mapping[str, float]
    seed: int
    samples_per_epoch: int
    blocks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    shuffle_window: int | None = None
    spread: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: needs 0 or more")
        if self.shuffle_window is not None and self.shuffle_window < 1:
            raise ConfigError(f"shuffle_window={self.shuffle_window}: needs 1 shard or more, or null for all")
        if self.samples_per_epoch < 1:
            raise ConfigError(f"samples_per_epoch={self.samples_per_epoch}: needs at least 1")
        if list(self.lengths) != list(self.weights) or not self.lengths:
            raise ConfigError(f"lengths and weights name different sources: {list(self.lengths)}, {list(self.weights)}")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"weight {weight} of source {name!r}: needs a finite number, 0 or more")
            if self.lengths[name] < 1 and weight > 0:
                raise DataError(f"source {name!r} has no records: check its root, split and filters")
        if sum(self.weights.values()) <= 0:
            raise ConfigError(f"the weights of all sources are 0: {dict(self.weights)}")
        for name, quota in zip(self.weights, self.quotas(), strict=True):
            if quota == 0 and self.weights[name] > 0:
                logger.warning(
                    "source %r is never drawn: its share of %d samples an epoch rounds to 0",
                    name,
                    self.samples_per_epoch,
                )

    def quotas(self) -> list[int]:
        """Samples of each source in an epoch, by largest remainder; their sum is `samples_per_epoch`."""
        total = sum(self.weights.values())
        exact = [self.samples_per_epoch * weight / total for weight in self.weights.values()]
        quotas = [math.floor(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (quotas[i] - exact[i], i))
        for i in by_remainder[: self.samples_per_epoch - sum(quotas)]:
            quotas[i] += 1
        return quotas

    def epoch_order(self, epoch: int) -> np.ndarray:
        """int64 (samples_per_epoch, 2): the number of the source and the index of the record, in order."""
        quotas = self.quotas()
        rng = np.random.default_rng([self.seed, epoch, 0, _INTERLEAVE])
        if self.spread:
            # Rolled, so that no source has the first place of every batch: the pattern closes, nothing is lost.
            sources = np.roll(spread_evenly(tuple(quotas)), rng.integers(self.samples_per_epoch))
        else:
            sources = np.repeat(np.arange(len(quotas)), quotas)
            rng.shuffle(sources)
        indices = np.empty_like(sources)
        for number, (name, quota) in enumerate(zip(self.lengths, quotas, strict=True)):
            indices[sources == number] = self._stream(name, epoch * quota, quota)
        return np.stack([sources, indices], axis=1)

    def _stream(self, name: str, start: int, count: int) -> np.ndarray:
        """`count` record indices from position `start` of a source's endless stream of shuffled passes."""
        if count == 0:
            return np.empty(0, np.int64)
        length = self.lengths[name]
        # Seeded by name: another source beside it leaves this one's passes as they were.
        tag = zlib.crc32(name.encode())
        first, last = start // length, (start + count - 1) // length
        passes = [
            self._pass(name, np.random.default_rng([self.seed, tag, number, _SHUFFLE]))
            for number in range(first, last + 1)
        ]
        return np.concatenate(passes)[start - first * length :][:count]

    def _pass(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """One shuffled pass over a source's records."""
        blocks, window = self.blocks.get(name), self.shuffle_window
        if blocks is None or window is None or window >= len(blocks):
            return rng.permutation(self.lengths[name])
        ends = [int(end) for end in np.cumsum(np.asarray(blocks, np.int64))]
        assert ends[-1] == self.lengths[name], "blocks do not add up to their source"
        shuffled = rng.permutation(len(blocks)).tolist()
        windows = [
            np.concatenate([np.arange(ends[block] - blocks[block], ends[block]) for block in shuffled[i : i + window]])
            for i in range(0, len(blocks), window)
        ]
        return np.concatenate([rng.permutation(indices) for indices in windows])


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator that draws everything in one sample; the same whatever the workers and ranks."""
    return np.random.default_rng([seed, epoch, position, _SAMPLE])
