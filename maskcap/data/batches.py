"""Which draws make each rank's batches: slices of one global order, with sequence lengths balanced across ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskcap.data.mixture import Draw, Mixture
from maskcap.data.record import Record
from maskcap.data.source_facts import text_size_of

REGION_COST = 100  # a region's own tokens (its features, the question) in characters of text; sets the scale alone


class TrainBatches:
    """One rank's batches of Draws, from global batch number `start` of `epoch`; both are set before each iteration.

    Global batch g of an epoch holds positions g·size … of its order, whatever the ranks and workers, where size =
    batch_size × world. It is dealt out so that the ranks' texts are about equally long (a sample whose length is not
    known without reading it counts as a usual one), or in turns where all are alike. With the mixture's `spread` that
    is done source by source: each rank's number of samples of a source is the global batch's, divided by the ranks and
    rounded down or up (so with one sample a rank, each rank has one source). The last, incomplete one is dealt out too
    unless `drop_last`: a rank that gets nothing of it gets its first sample again, so that every rank steps;
    `is_padding` tells.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        drop_last: bool = False,
        sources: Sequence[Sequence[Record]] = (),
        regions_per_image: int | None = None,
    ) -> None:
        self.mixture = mixture
        self.global_size = batch_size * world
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start = 0
        self._drop_last = drop_last
        self._sources = sources
        self._regions = regions_per_image
        # of a conversation everything is read, whatever number of regions is drawn
        self._whole = [bool(getattr(source, "has_turns", False)) for source in sources]

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        samples = self.mixture.samples_per_epoch
        return samples // self.global_size if self._drop_last else -(-samples // self.global_size)

    def is_padding(self, batch: int) -> bool:
        """Whether this rank's batch of that number in an epoch holds nothing of its own."""
        return batch * self.global_size + self.rank >= self.mixture.samples_per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        order_N2 = self.mixture.epoch_order(self.epoch)
        for batch in range(self.start, len(self)):
            first = batch * self.global_size
            positions = range(first, min(first + self.global_size, len(order_N2)))
            mine = self._share(positions, order_N2) or [first]
            yield [Draw(self.epoch, i, int(order_N2[i, 0]), int(order_N2[i, 1])) for i in mine]

    def _share(self, positions: range, order_N2: np.ndarray) -> list[int]:
        """This rank's positions of one global batch, ascending."""
        if self.world == 1:
            return list(positions)
        costs = [self._cost(*order_N2[i]) for i in positions]
        known = [cost for cost in costs if cost is not None]
        usual = sum(known) / len(known) if known else 1.0
        filled = [usual if cost is None else cost for cost in costs]
        groups = [int(order_N2[i, 0]) for i in positions] if self.mixture.spread else None
        return [positions[i] for i in balance(filled, self.world, groups)[self.rank]]

    def _cost(self, source: int, index: int) -> float | None:
        """Characters that the sample's sequence is expected to take, or None."""
        size = text_size_of(self._sources[source], int(index)) if self._sources else None
        if size is None:
            return None
        regions, characters = size
        if self._whole[source]:
            return (1 + regions) * REGION_COST + characters
        drawn = regions if self._regions is None else min(regions, self._regions)
        return drawn * (REGION_COST + characters / max(regions, 1))


def balance(costs: Sequence[float], ranks: int, groups: Sequence[int] | None = None) -> list[list[int]]:
    """Deal out items to ranks so that the sums of costs are about equal and the counts differ by one at most.

    The costliest first, each to the rank with the least so far (Graham's LPT rule, with equal counts); equal costs are
    dealt out in turns, 0, 1, 2, … With `groups`, the number of each item's group, one group is dealt out after the
    other, and the ranks' counts of each group differ by one at most too. Returns each rank's item numbers, ascending.
    A function of its arguments alone.
    """
    groups = [0] * len(costs) if groups is None else groups
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    done = 0
    for group in sorted(set(groups)):
        items = [i for i, its_group in enumerate(groups) if its_group == group]
        # As many as each rank gets when all items, group after group, are dealt out in turns.
        room = [len(range((rank - done) % ranks, len(items), ranks)) for rank in range(ranks)]
        done += len(items)
        for item in sorted(items, key=lambda i: (-costs[i], i)):
            rank = min((r for r in range(ranks) if room[r]), key=lambda r: (sums[r], len(dealt[r]), r))
            dealt[rank].append(item)
            sums[rank] += costs[item]
            room[rank] -= 1
    return [sorted(items) for items in dealt]
