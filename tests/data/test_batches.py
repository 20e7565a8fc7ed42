from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from maskcap.data.batches import REGION_COST, TrainBatches, balance
from maskcap.data.mixture import Mixture


@dataclass
class Sized(Sequence):
    """A source that tells how long its records' texts are, and has no records."""

    sizes: list[tuple[int, int] | None]
    has_turns: bool = False

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        raise AssertionError("reading a record is not needed to deal out a batch")

    def text_size_of(self, index):
        return self.sizes[index]


def mixture(samples: int) -> Mixture:
    return Mixture({"a": samples}, {"a": 1.0}, 7, samples)


def ranks(samples, size, world, **options) -> list[TrainBatches]:
    return [TrainBatches(mixture(samples), size, rank, world, **options) for rank in range(world)]


@pytest.mark.parametrize("samples", [1, 2, 7, 24, 25])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_sample_is_in_one_batch_of_one_rank(samples, world, size):
    seen: Counter[int] = Counter()
    lengths = set()
    for batches in ranks(samples, size, world):
        dealt = list(batches)
        lengths.add(len(dealt))
        assert len(dealt) == len(batches) and all(dealt)
        seen.update(draw.index for i, batch in enumerate(dealt) if not batches.is_padding(i) for draw in batch)
    assert seen == Counter(range(samples)) and len(lengths) == 1


def test_a_rank_without_a_share_repeats_a_sample_as_padding():
    batches = ranks(7, 2, 3)
    assert [[len(batch) for batch in each] for each in batches] == [[2, 1], [2, 1], [2, 1]]
    assert [[each.is_padding(i) for i in range(2)] for each in batches] == [
        [False, False],
        [False, True],
        [False, True],
    ]


def test_drop_last_leaves_the_incomplete_batch_out():
    assert [len(batches) for batches in ranks(7, 2, 2, drop_last=True)] == [1, 1]
    assert all(len(batch) == 2 for batches in ranks(7, 2, 2, drop_last=True) for batch in batches)


def test_a_global_batch_is_the_same_set_with_any_number_of_ranks():
    rng = np.random.default_rng(0)
    source = Sized([(int(n), int(c)) for n, c in zip(rng.integers(1, 9, 50), rng.integers(0, 900, 50), strict=True)])

    def sets(size, world):
        dealt = [list(batches) for batches in ranks(50, size, world, sources=[source], regions_per_image=4)]
        return [{draw.position for rank in step for draw in rank} for step in zip(*dealt, strict=True)]

    assert sets(12, 1) == sets(6, 2) == sets(3, 4) == sets(2, 6)


def test_starting_later_gives_the_same_rest():
    whole, late = TrainBatches(mixture(23), 2, 1, 2), TrainBatches(mixture(23), 2, 1, 2)
    late.start = 3
    assert list(late) == list(whole)[3:]


def test_equal_or_unknown_lengths_are_dealt_out_in_turns():
    assert balance([1.0] * 7, 3) == [[0, 3, 6], [1, 4], [2, 5]]
    plain = [list(batches) for batches in ranks(20, 2, 2)]
    for sizes in ([(2, 40)] * 20, [None] * 20):
        assert [list(batches) for batches in ranks(20, 2, 2, sources=[Sized(sizes)])] == plain


def test_balance_by_hand():
    # The costliest first: 9 → rank 0, 8 → rank 1, 5 → rank 1 (8 < 9), 4 → rank 0, which had room for one more.
    assert balance([4.0, 9.0, 5.0, 8.0], 2) == [[0, 1], [2, 3]]
    assert balance([], 2) == [[], []]


def test_balanced_ranks_wait_less_for_each_other():
    """The longest rank over the mean, by 300 global batches of 4 × 8 with texts of log-normal length (σ = 0.5)."""
    costs = np.exp(np.random.default_rng(1).normal(0, 0.5, (300, 32)))
    turns = np.mean([max(row[rank::8].sum() for rank in range(8)) / (row.sum() / 8) for row in costs])
    dealt = np.mean([max(row[items].sum() for items in balance(row.tolist(), 8)) / (row.sum() / 8) for row in costs])
    assert turns > 1.35 and dealt < 1.1, (turns, dealt)


def test_the_cost_counts_the_regions_that_are_drawn():
    batches = TrainBatches(mixture(2), 1, 0, 2, sources=[Sized([(8, 800), None])], regions_per_image=2)
    assert batches._cost(0, 0) == 2 * (REGION_COST + 100) and batches._cost(0, 1) is None


def two_sources(samples: int, weights: tuple[float, float], *, spread: bool = True) -> Mixture:
    lengths = {"a": samples, "b": samples}
    return Mixture(lengths, dict(zip(lengths, weights, strict=True)), 7, samples, spread=spread)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.4, 0.6)])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("samples", [96, 83])
def test_spread_gives_every_rank_its_share_of_every_source(weights, world, samples):
    mixed = two_sources(samples, weights)
    rng = np.random.default_rng(0)
    texts = Sized([(int(n), int(c)) for n, c in zip(rng.integers(1, 9, 99), rng.integers(0, 900, 99), strict=True)])
    dealt = [list(TrainBatches(mixed, 4, rank, world, sources=[texts, Sized([None] * 99)])) for rank in range(world)]
    order = mixed.epoch_order(0)
    for number, step in enumerate(zip(*dealt, strict=True)):
        whole = order[number * 4 * world : (number + 1) * 4 * world, 0].tolist()
        assert sorted(len(rank) for rank in step) == sorted(len(whole[rank::world]) for rank in range(world))
        assert sorted(draw.position for rank in step for draw in rank) == list(
            range(number * 4 * world, number * 4 * world + len(whole))
        )
        for source in (0, 1):
            shares = [sum(draw.source == source for draw in rank) for rank in step]
            assert max(shares) - min(shares) <= 1 and sum(shares) == whole.count(source)
            if weights == (1, 1) and len(whole) == 4 * world and world == 2:
                assert shares == [2, 2]


def test_without_spread_a_rank_may_have_one_source_alone():
    mixed = two_sources(96, (1, 1), spread=False)
    shares = [sum(draw.source for draw in batch) for batch in TrainBatches(mixed, 4, 0, 2)]
    assert {0, 4} & set(shares)


def test_groups_are_balanced_each_and_together():
    costs = [9.0, 1.0, 8.0, 2.0, 5.0, 5.0]
    dealt = balance(costs, 2, [0, 0, 0, 0, 1, 1])
    assert dealt == [[0, 1, 4], [2, 3, 5]]
    # An odd group's last one goes where the turns go on, so that the counts stay equal.
    assert [len(items) for items in balance([1.0] * 8, 2, [0, 0, 0, 1, 1, 1, 2, 2])] == [4, 4]
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = rng.integers(0, 4, 21).tolist()
        dealt = balance(rng.random(21).tolist(), 4, groups)
        assert sorted(i for items in dealt for i in items) == list(range(21))
        assert [len(items) for items in dealt] == [6, 5, 5, 5]
        for group in range(4):
            counts = [sum(groups[i] == group for i in items) for items in dealt]
            assert max(counts) - min(counts) <= 1


def test_conversations_cost_what_is_said_in_them():
    """A rank with a long conversation about no region gets it with short ones; regions they speak of all count."""
    talks = Sized([(0, 6000), (0, 8), (0, 10), (40, 0)], has_turns=True)
    batches = [TrainBatches(mixture(4), 2, rank, 2, sources=[talks], regions_per_image=5) for rank in range(2)]
    dealt = [sorted(draw.index for draw in next(iter(each))) for each in batches]
    assert sorted(dealt) == [[0, 1], [2, 3]]
