from __future__ import annotations

import json
import logging
import multiprocessing
import time

import numpy as np
import pytest
import torch

from maskcap.data.drawing import SampleOptions
from maskcap.data.loader import EvalLoader, LoaderOptions, TrainLoader
from maskcap.data.mixture import Mixture
from maskcap.errors import CheckpointError, ConfigError, ImageDecodeError, MaskDecodeError

SAMPLES = SampleOptions(image_size=8, regions_per_image=2)


@pytest.fixture
def sources(tiny_source):
    return {"a": tiny_source(7, "a"), "b": tiny_source(4, "b")}


def loader(sources, *, samples=11, seed=0, size=2, workers=0, rank=0, world=1, drop=False, **kwargs) -> TrainLoader:
    weights = dict.fromkeys(sources, 1.0)
    mixture = Mixture({name: len(source) for name, source in sources.items()}, weights, seed, samples)
    options = LoaderOptions(size, workers, False, rank, world, drop_last=drop)
    return TrainLoader(list(sources.values()), mixture, SAMPLES, options, **kwargs)


def same(batches, others) -> bool:
    """Every pixel and every text."""
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        for name in ("keys", "region_ids", "caption", "phrase", "references"):
            if one[name] != other[name]:
                return False
        if not (torch.equal(one.image1, other.image1) and torch.equal(one.mask1, other.mask1)):
            return False
    return True


def keys(batches) -> list[list[str]]:
    return [batch.keys for batch in batches]


@pytest.mark.parametrize(("drop", "sizes"), [(False, [2, 2, 2, 2, 2, 1]), (True, [2, 2, 2, 2, 2])])
def test_the_last_batch_and_epochs_differ(sources, drop, sizes):
    train = loader(sources, drop=drop)
    first = list(train)
    assert len(train) == len(first) and [len(batch.keys) for batch in first] == sizes
    assert same(first, list(train))
    train.set_epoch(1)
    assert keys(train) != keys(first)


def test_workers_change_nothing(sources):
    plain, parallel = loader(sources), loader(sources, workers=2)
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        parallel.set_epoch(epoch)
        assert same(list(plain), list(parallel))


@pytest.mark.parametrize("workers", [0, 2])
def test_exact_resume(sources, workers):
    whole = loader(sources)
    whole.set_epoch(2)
    undisturbed = list(whole)
    for stop in range(len(whole) + 1):
        stopped = loader(sources, workers=workers if stop == 2 else 0)
        stopped.set_epoch(2)
        iterator = iter(stopped)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(stopped.state_dict()))
        assert (state["epoch"], state["samples"]) == (2, min(2 * stop, 11))
        resumed = loader(sources, workers=workers if stop == 2 else 0)
        resumed.load_state_dict(state)
        resumed.set_epoch(2)
        assert resumed.state_dict() == stopped.state_dict() and len(resumed) == 6
        assert same(list(resumed), undisturbed[stop:])
        assert same(list(resumed), undisturbed)  # only the first iteration continues


def test_a_new_epoch_drops_the_position(sources):
    train = loader(sources)
    next(iter(train))
    resumed = loader(sources)
    resumed.load_state_dict(train.state_dict())
    resumed.set_epoch(1)
    train.set_epoch(1)
    assert same(list(resumed), list(train))


def test_ranks_slice_one_global_order(sources):
    whole = keys(loader(sources, size=4))
    ranks = [keys(loader(sources, size=2, rank=rank, world=2)) for rank in (0, 1)]
    for together, left, right in zip(whole, *ranks, strict=True):
        assert together[0::2] == left and together[1::2] == right


def test_resume_with_another_number_of_ranks(sources):
    two = loader(sources, size=2, rank=0, world=2)
    next(iter(two))
    one = loader(sources, size=4)
    one.load_state_dict(two.state_dict())
    assert keys(one) == keys(loader(sources, size=4))[1:]


def test_changed_data_inside_an_epoch_is_an_error(sources):
    train = loader(sources)
    next(iter(train))
    state = train.state_dict()
    with pytest.raises(CheckpointError, match="seed: 0 then, 1 now"):
        loader(sources, seed=1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="samples_per_epoch: 11 then, 9 now"):
        loader(sources, samples=9).load_state_dict(state)
    with pytest.raises(CheckpointError, match="2 samples into epoch 0, no multiple of the global batch of 4"):
        loader(sources, size=4).load_state_dict(state)
    loader(sources, seed=1).load_state_dict(state | {"samples": 0})


def test_another_window_of_shards_is_another_order(sources):
    def windowed(window, blocks=(3, 4)):
        mixture = Mixture({"a": 7}, {"a": 1.0}, 0, 7, {"a": blocks}, window)
        return TrainLoader([sources["a"]], mixture, SAMPLES, LoaderOptions(2))

    train = windowed(1)
    next(iter(train))
    state = json.loads(json.dumps(train.state_dict()))
    windowed(1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="shuffle_window: 1 then, None now"):
        windowed(None).load_state_dict(state)
    with pytest.raises(CheckpointError, match="shards: "):
        windowed(1, (4, 3)).load_state_dict(state)
    windowed(None, (4, 3)).load_state_dict(windowed(None).state_dict() | {"samples": 2})  # shards decide nothing then


def test_an_epoch_without_a_full_batch(sources):
    with pytest.raises(ConfigError, match="an epoch of 3 samples has no full batch of 4"):
        loader(sources, samples=3, size=2, world=2, drop=True)


def test_no_reshuffle_repeats_the_first_epoch(sources):
    train = loader(sources, reshuffle=False)
    first = list(train)
    train.set_epoch(5)
    assert same(first, list(train))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_one_clear_error(sources, workers):
    sources["a"].records[3].image1.path.write_bytes(b"no image")
    train = loader(sources, samples=22, workers=workers)
    with pytest.raises(ImageDecodeError, match="a/train/3") as caught:
        list(train)
    train.close()
    assert "Traceback" not in str(caught.value)


def test_a_bad_mask_in_evaluation(tiny_source, region):
    source = tiny_source(2)
    object.__setattr__(source.records[1], "regions1", (region(0, 9, 9),))
    evaluation = iter(EvalLoader(source, 0, SAMPLES, LoaderOptions(1)))
    next(evaluation)
    with pytest.raises(MaskDecodeError, match="tiny/train/1"):
        next(evaluation)


def test_spread_is_another_order_and_checkpoints_from_before_it_were_not_spread(sources):
    def train(spread: bool) -> TrainLoader:
        mixture = Mixture({"a": 7, "b": 4}, {"a": 1.0, "b": 1.0}, 0, 10, spread=spread)
        return TrainLoader(list(sources.values()), mixture, SAMPLES, LoaderOptions(2))

    def begun(spread: bool) -> dict:
        loader = train(spread)
        next(iter(loader))
        return loader.state_dict()

    resumed = train(True)
    resumed.load_state_dict(begun(True))
    assert keys(resumed) == keys(train(True))[1:]
    with pytest.raises(CheckpointError, match="spread: True then, False now"):
        train(False).load_state_dict(begun(True))
    older = begun(False)
    del older["order"]["spread"]
    train(False).load_state_dict(older)
    with pytest.raises(CheckpointError, match="spread: False then, True now"):
        train(True).load_state_dict(older)


def test_evaluation_is_fixed_whole_and_in_order(tiny_source):
    source = tiny_source(5)
    plain = EvalLoader(source, 0, SAMPLES, LoaderOptions(2))
    assert keys(plain) == [["tiny/train/0", "tiny/train/1"], ["tiny/train/2", "tiny/train/3"], ["tiny/train/4"]]
    assert len(plain) == 3
    assert same(list(plain), list(plain))
    assert same(list(plain), list(EvalLoader(source, 0, SAMPLES, LoaderOptions(2, num_workers=2))))
    one_by_one = list(EvalLoader(source, 0, SAMPLES, LoaderOptions(1)))
    assert [text for batch in plain for text in batch.caption] == [t for batch in one_by_one for t in batch.caption]


def test_evaluation_ranks_get_equally_many(tiny_source):
    source = tiny_source(5)
    ranks = [EvalLoader(source, 0, SAMPLES, LoaderOptions(1, rank=rank, world=2)) for rank in (0, 1)]
    numbers = [[int(batch.keys[0][-1]) for batch in rank] for rank in ranks]
    assert numbers == [[0, 2, 4], [1, 3, 0]]
    padding = [[any(batch.padding) for batch in rank] for rank in ranks]
    assert padding == [[False, False, False], [False, False, True]]


@pytest.mark.parametrize("make", ["train", "evaluation"])
def test_regions_kept_as_one_pixel_are_counted_in_the_log(sources, make, caplog):
    speck = np.zeros((24, 32), np.uint8)
    speck[13, 21] = 1
    for record in sources["b"].records:
        object.__setattr__(record.regions1[0], "mask", speck)
    whole = SampleOptions(image_size=8, regions_per_image=None)
    only = {"b": sources["b"]}
    mixture = Mixture({"b": 4}, {"b": 1.0}, 0, 4)
    batches = (
        TrainLoader(list(only.values()), mixture, whole, LoaderOptions(2))
        if make == "train"
        else EvalLoader(sources["b"], 0, whole, LoaderOptions(2))
    )
    with caplog.at_level(logging.INFO):
        assert [batch.tiny_regions for batch in batches] == [2, 2]
    assert "4 regions were smaller than a pixel" in caplog.text


def test_closing_stops_the_workers_at_once(sources):
    before = set(multiprocessing.active_children())
    train = loader(sources, workers=2)
    first = list(train)
    next(iter(train))
    children = set(multiprocessing.active_children()) - before
    assert len(children) == 2
    started = time.monotonic()
    train.close()
    assert not any(child.is_alive() for child in children) and time.monotonic() - started < 4
    assert same(list(train), first)
    train.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_own_random_numbers_are_left_alone(sources, workers):
    state = torch.get_rng_state()
    train = loader(sources, workers=workers)
    list(train)
    train.close()
    assert torch.equal(torch.get_rng_state(), state)
