from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from maskcap.data.mixture import Mixture, sample_rng
from maskcap.errors import ConfigError, DataError


def mixture(lengths, weights, samples, seed=0) -> Mixture:
    return Mixture(lengths, weights, seed, samples)


def test_one_source_is_one_shuffled_pass_an_epoch():
    order = mixture({"a": 50}, {"a": 1.0}, 50).epoch_order(3)
    assert order.shape == (50, 2) and order.dtype == np.int64
    assert sorted(order[:, 1]) == list(range(50)) and list(order[:, 1]) != list(range(50))


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return mixture({"a": 20, "b": 7}, {"a": 1.0, "b": 2.0}, 30, seed).epoch_order(epoch).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_weights_are_shares_by_largest_remainder():
    mixed = mixture({"a": 10, "b": 1000, "c": 5}, {"a": 3.0, "b": 2.0, "c": 1.0}, 100)
    assert mixed.quotas() == [50, 33, 17]  # 50, 33.3, 16.7
    assert Counter(mixed.epoch_order(0)[:, 0].tolist()) == {0: 50, 1: 33, 2: 17}
    assert mixture({"a": 1, "b": 1}, {"a": 1.0, "b": 0.0}, 9).quotas() == [9, 0]
    for samples in range(3, 40):
        assert sum(mixture({"a": 2, "b": 3, "c": 4}, {"a": 0.7, "b": 0.2, "c": 0.1}, samples).quotas()) == samples


def test_nothing_repeats_before_its_source_is_used_up():
    mixed = mixture({"a": 12, "b": 90}, {"a": 1.0, "b": 1.0}, 40)
    orders = np.concatenate([mixed.epoch_order(epoch) for epoch in range(9)])
    for source, length in ((0, 12), (1, 90)):
        # Within an epoch a source's records come in its stream's order, so whole passes can be cut off one by one.
        stream = orders[orders[:, 0] == source, 1]
        for start in range(0, len(stream) - length + 1, length):
            assert sorted(stream[start : start + length]) == list(range(length))


def test_another_source_leaves_this_ones_passes():
    alone = mixture({"a": 30}, {"a": 1.0}, 30).epoch_order(0)
    beside = mixture({"b": 30, "a": 30}, {"b": 1.0, "a": 1.0}, 60).epoch_order(0)
    assert alone[:, 1].tolist() == beside[beside[:, 0] == 1, 1].tolist()


def test_sources_are_interleaved():
    order = mixture({"a": 100, "b": 100}, {"a": 1.0, "b": 1.0}, 200).epoch_order(0)
    assert 30 < (order[:100, 0] == 0).sum() < 70


def test_sample_generators_differ():
    draws = {sample_rng(s, e, p).integers(2**62) for s in range(3) for e in range(3) for p in range(20)}
    assert len(draws) == 180
    assert sample_rng(1, 2, 3).integers(2**62) == sample_rng(1, 2, 3).integers(2**62)


def test_a_share_that_rounds_to_nothing_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        mixture({"big": 10, "small": 10}, {"big": 1000.0, "small": 1.0}, 20)
    assert "'small' is never drawn" in caplog.text and "big" not in caplog.text


@pytest.mark.parametrize(
    ("lengths", "weights", "samples", "error", "message"),
    [
        ({"a": 0}, {"a": 1.0}, 5, DataError, "'a' has no records"),
        ({"a": 5}, {"a": -1.0}, 5, ConfigError, "weight -1.0 of source 'a'"),
        ({"a": 5}, {"a": float("nan")}, 5, ConfigError, "weight nan"),
        ({"a": 5}, {"a": 0.0}, 5, ConfigError, "all sources are 0"),
        ({"a": 5}, {"b": 1.0}, 5, ConfigError, "different sources"),
        ({}, {}, 5, ConfigError, "different sources"),
        ({"a": 5}, {"a": 1.0}, 0, ConfigError, "samples_per_epoch=0"),
    ],
)
def test_wrong_mixtures(lengths, weights, samples, error, message):
    with pytest.raises(error, match=message):
        mixture(lengths, weights, samples)
    with pytest.raises(ConfigError, match="seed=-1"):
        mixture({"a": 1}, {"a": 1.0}, 1, seed=-1)


def test_a_window_shuffles_a_few_shards_at_a_time():
    blocks = [5, 3, 4, 6, 2]
    starts = [0, 5, 8, 12, 18]
    shard_of = np.repeat(range(5), blocks)
    mixed = Mixture({"a": 20}, {"a": 1.0}, 0, 20, {"a": blocks}, 2)
    seen = set()
    for epoch in range(4):
        order = mixed.epoch_order(epoch)[:, 1]
        assert sorted(order) == list(range(20))
        shards = [shard_of[i] for i in order]
        assert len(set(shards[:3])) <= 2  # the first window's
        first = list(dict.fromkeys(shards))
        windows, done = [set(first[0:2]), set(first[2:4]), set(first[4:])], 0
        for window in windows:
            size = sum(blocks[shard] for shard in window)
            assert set(shards[done : done + size]) == window
            done += size
        seen.add(tuple(order))
    assert len(seen) == 4 and starts[-1] + blocks[-1] == 20


def test_windows_of_every_shard_are_a_plain_shuffle():
    plain = mixture({"a": 20}, {"a": 1.0}, 20)
    assert (Mixture({"a": 20}, {"a": 1.0}, 0, 20, {"a": [10, 10]}, 2).epoch_order(1) == plain.epoch_order(1)).all()
    with pytest.raises(ConfigError, match="shuffle_window=0"):
        Mixture({"a": 20}, {"a": 1.0}, 0, 20, {"a": [20]}, 0)


WEIGHTS = [[1, 1], [5, 1], [0.37, 0.63], [1, 1, 1], [5, 5, 1], [0.7, 0.2, 0.1], [5, 4, 3, 2, 1], [9, 1, 1, 1, 3.3]]


def spread_mixture(weights: list[float], samples: int, *, spread: bool = True, seed: int = 0) -> Mixture:
    names = "abcde"[: len(weights)]
    lengths = {name: 40 + 7 * i for i, name in enumerate(names)}
    return Mixture(lengths, dict(zip(names, weights, strict=True)), seed, samples, spread=spread)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("samples", [60, 211])
def test_spread_gives_every_run_of_draws_its_share(weights, samples):
    mixed = spread_mixture(weights, samples)
    sources = mixed.epoch_order(2)[:, 0].tolist()
    assert [sources.count(i) for i in range(len(weights))] == mixed.quotas()
    allowed = 2 - 1 / (len(weights) - 1)  # 1 for two sources
    for n in (1, 2, 3, 4, 8, 16, 50):
        for start in range(samples - n + 1):
            run = sources[start : start + n]
            for number, quota in enumerate(mixed.quotas()):
                assert abs(run.count(number) - n * quota / samples) <= allowed + 1e-9, (n, start, number)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_spread_draws_the_same_records_of_each_source(weights):
    for epoch in range(3):
        even, random = (spread_mixture(weights, 97, spread=spread).epoch_order(epoch) for spread in (True, False))
        assert even.dtype == random.dtype and even.shape == random.shape
        for number in range(len(weights)):
            assert even[even[:, 0] == number, 1].tolist() == random[random[:, 0] == number, 1].tolist()


def test_spread_is_a_function_of_seed_and_epoch_and_begins_anywhere():
    def first(seed, epoch):
        return spread_mixture([1, 1, 2], 40, seed=seed).epoch_order(epoch)[:, 0].tolist()

    assert first(0, 1) == first(0, 1)
    starts = {tuple(first(0, epoch)[:4]) for epoch in range(30)}
    pattern = first(0, 0)[:4]
    assert starts == {tuple(pattern[i:] + pattern[:i]) for i in range(4)}


def test_spread_with_a_source_left_out_and_with_one_alone():
    assert set(spread_mixture([1, 0, 1], 30).epoch_order(0)[:, 0].tolist()) == {0, 2}
    alone, plain = (spread_mixture([1], 40, spread=spread).epoch_order(0) for spread in (True, False))
    assert (alone == plain).all()
