from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch

from maskcap.data.bad_samples import BadSamplePolicy
from maskcap.data.drawing import MAX_TRIES, DrawnSamples, SampleOptions
from maskcap.data.loader import EvalLoader, LoaderOptions, TrainLoader
from maskcap.data.mixture import Draw, Mixture
from maskcap.errors import DataError, ImageDecodeError

SAMPLES = SampleOptions(image_size=8, regions_per_image=2)


def skip(file: Path | None = None, fraction: float = 1.0) -> BadSamplePolicy:
    return BadSamplePolicy("skip", fraction, file)


def train(source, *, policy, workers=0, rank=0, world=1, size=2, samples=None) -> TrainLoader:
    mixture = Mixture({"a": len(source)}, {"a": 1.0}, 3, samples or len(source))
    options = LoaderOptions(size, workers, rank=rank, world=world)
    return TrainLoader([source], mixture, SAMPLES, options, policy=policy)


@pytest.fixture
def damaged(tiny_source):
    """12 records; the image of 4 is missing, that of 7 is no image, record 9 has an empty caption."""
    source = tiny_source(12)
    source.records[4].image1.path.unlink()
    source.records[7].image1.path.write_bytes(b"no image")
    object.__setattr__(source.records[9].regions1[0], "captions", (" ",))
    object.__setattr__(source.records[9].regions1[1], "captions", (" ",))
    object.__setattr__(source.records[9].regions1[2], "captions", (" ",))
    return source


def test_the_next_of_the_epoch_takes_a_bad_ones_place(damaged):
    loader = train(damaged, policy=skip())
    order = [int(index) for _, index in loader._batches.mixture.epoch_order(0)]
    bad = {4, 7, 9}
    expected = []
    for place in range(12):
        step = next(step for step in range(12) if order[(place + step) % 12] not in bad)
        expected.append(f"tiny/train/{order[(place + step) % 12]}")
    batches = list(loader)
    assert [key for batch in batches for key in batch.keys] == expected
    assert Counter(sample.key for batch in batches for sample in batch.bad) == {f"tiny/train/{i}": 1 for i in bad}


def test_workers_and_ranks_replace_alike(damaged):
    plain = list(train(damaged, policy=skip()))
    for batches in (list(train(damaged, policy=skip(), workers=2)),):
        for one, other in zip(plain, batches, strict=True):
            assert one.keys == other.keys and one.bad == other.bad
            assert torch.equal(one.image1, other.image1) and torch.equal(one.mask1, other.mask1)
    ranks = [list(train(damaged, policy=skip(), size=1, rank=rank, world=2)) for rank in (0, 1)]
    together = [[*left.keys, *right.keys] for left, right in zip(*ranks, strict=True)]
    assert together == [batch.keys for batch in plain]


def test_bad_samples_are_named_once_and_counted_by_reason(damaged, tmp_path, caplog):
    file = tmp_path / "run" / "bad_samples.jsonl"
    loader = train(damaged, policy=skip(file))
    with caplog.at_level(logging.WARNING):
        list(loader)
        list(loader)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted((line["key"], line["reason"]) for line in lines) == [
        ("tiny/train/4", "missing file"),
        ("tiny/train/7", "unreadable image"),
        ("tiny/train/9", "empty caption"),
    ]
    assert all(line["key"] in line["message"] for line in lines)
    assert caplog.text.count("passed over a bad sample") == 3  # each once, in two epochs
    assert caplog.text.count("3 bad samples of 12") == 2 and "empty caption" in caplog.text


def test_raise_is_the_default_and_names_the_sample(damaged):
    with pytest.raises(DataError, match="tiny/train/[479]"):
        list(train(damaged, policy=BadSamplePolicy()))


def test_too_many_bad_samples_end_the_run(tiny_source, tmp_path):
    source = tiny_source(40)
    for i in range(0, 40, 2):
        source.records[i].image1.path.unlink()
    with pytest.raises(
        DataError, match=r"samples drawn are bad \(\d+ missing file\), more than .*=0.1 of 40 allows"
    ) as caught:
        list(train(source, policy=skip(tmp_path / "bad.jsonl", 0.1)))
    assert "bad.jsonl lists them" in str(caught.value) and caught.value.reason == "missing file"
    assert len(list(train(source, policy=skip(fraction=0.7)))) == 20


def test_one_early_bad_sample_does_not_end_a_long_run(tiny_source):
    source = tiny_source(30)
    source.records[int(Mixture({"a": 30}, {"a": 1.0}, 3, 30).epoch_order(0)[0, 1])].image1.path.unlink()
    assert len(list(train(source, policy=skip(fraction=0.07)))) == 15  # 1 of the first 2 drawn, 1 of 30 in all
    with pytest.raises(DataError, match="1 of 2 samples drawn"):
        list(train(source, policy=skip(fraction=0.03)))


def test_only_bad_records_end_the_run_by_themselves(tiny_source):
    source = tiny_source(3)
    for record in source.records:
        record.image1.path.unlink()
    samples = DrawnSamples([source], 0, SAMPLES, Mixture({"a": 3}, {"a": 1.0}, 0, 3).epoch_order, skip=True)
    drawn = samples[Draw(0, 0, 0, 0)]
    assert isinstance(drawn.made, DataError) and "no readable sample in 3 tries" in str(drawn.made)
    assert [sample.key for sample in drawn.bad] == ["tiny/train/0"]


def test_evaluation_leaves_bad_samples_out_by_marking_their_place(damaged):
    loader = EvalLoader(damaged, 0, SAMPLES, LoaderOptions(5), policy=skip())
    batches = list(loader)
    scored = [key for batch in batches for i, key in enumerate(batch.keys) if not batch.is_padding(i)]
    assert scored == [f"tiny/train/{i}" for i in range(12) if i not in (4, 7, 9)]
    assert sum(len(batch.keys) for batch in batches) == 12
    with pytest.raises(ImageDecodeError, match="tiny/train/4"):
        list(EvalLoader(damaged, 0, SAMPLES, LoaderOptions(5)))


class Lost(list):
    """A source whose records 5 … 5 + `lost` are known to be bad, as those of a lost shard."""

    def __init__(self, records, lost):
        super().__init__(records)
        self.bad = {i: DataError(f"lost/{i}: the shard is missing.", "missing shard") for i in range(5, 5 + lost)}

    def __getitem__(self, index):
        if index in self.bad:
            raise self.bad[index]
        return super().__getitem__(index)


def test_a_lost_shard_counts_each_of_its_records_once(tiny_source):
    good = tiny_source(6).records
    lost = 3 * MAX_TRIES
    source = Lost([*good[:5], *[good[0]] * lost, good[5]], lost)
    policy = skip(fraction=lost / len(source))
    batches = list(EvalLoader(source, 0, SAMPLES, LoaderOptions(50), policy=policy))
    scored = [key for batch in batches for i, key in enumerate(batch.keys) if not batch.is_padding(i)]
    assert scored == [f"tiny/train/{i}" for i in range(6)]
    assert sum(len(batch.bad) for batch in batches) == lost
    mixture = Mixture({"a": len(source)}, {"a": 1.0}, 0, len(source), {"a": [5, lost, 1]}, 1)
    loader = TrainLoader([source], mixture, SAMPLES, LoaderOptions(50), policy=policy)
    assert sum(len(batch.bad) for batch in loader) == lost
    with pytest.raises(DataError, match="missing shard"):
        list(EvalLoader(source, 0, SAMPLES, LoaderOptions(50), policy=skip(fraction=0.5)))
