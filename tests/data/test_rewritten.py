from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from maskcap.data import sample as sample_module
from maskcap.data.collate import collate
from maskcap.data.drawing import DrawnSamples, SampleOptions
from maskcap.data.mixture import Draw
from maskcap.data.record import Record
from maskcap.data.rewritten import RewrittenSource, still_pairs, without_captions
from maskcap.data.sample import make_sample
from maskcap.data.source_facts import (
    annotation_of,
    blocks_of,
    image_of,
    key_of,
    known_bad,
    skipped_of,
    source_has_captions,
    source_has_phrases,
    source_name,
    text_size,
    text_size_of,
)
from maskcap.data.split import split_part
from maskcap.errors import DataError


class Telling(list):
    """A source that says everything of itself; its record 2 is bad."""

    name, has_captions, has_phrases = "told", True, True
    skipped, blocks = {"too small": 4}, [2, 1]
    bad = {2: DataError("told/train/2: lost.")}

    def image_of(self, index: int) -> str:
        return f"image {index // 2}"

    def key_of(self, index: int) -> str:
        return f"told/train/{index}"

    def annotation_of(self, index: int) -> str:
        return f"{index}.json"

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        return None if index == 2 else (3, 100 + index)


def facts(source: Any) -> list[Any]:
    each = [
        (image_of(source, i), key_of(source, i), annotation_of(source, i), text_size_of(source, i))
        for i in range(len(source))
    ]
    whole = [source_name(source), source_has_captions(source), source_has_phrases(source)]
    return [*whole, skipped_of(source), known_bad(source), blocks_of(source), each]


def test_what_the_source_says_goes_through():
    source = Telling([None] * 3)
    assert facts(still_pairs(lambda: source)) == facts(source)


def test_without_captions_says_that_there_are_none():
    source = Telling([None] * 3)
    said, bare = facts(source), facts(without_captions(lambda: source))
    assert bare[:3] == ["told", False, False] and bare[3:6] == said[3:6]
    assert [each[:3] for each in bare[6]] == [each[:3] for each in said[6]]
    assert [each[3] for each in bare[6]] == [(3, 0), (3, 0), None]


def test_without_captions_leaves_masks_alone(tiny_source, region):
    source = tiny_source(3)
    asked = region(1, captions=("yes", "no"), questions=("a?", "b?"), referring=False)
    source.records[1] = replace(source.records[1], regions1=(asked, region(2)))
    bare = without_captions(lambda: source)
    assert len(bare) == 3 and [record.key for record in bare] == [record.key for record in source]
    for record, before in zip(bare, source, strict=True):
        assert record.image1 == before.image1 and record.image2 is record.regions2 is None
        assert [(r.id, r.captions, r.questions, r.referring) for r in record.regions1] == [
            (r.id, (), (), True) for r in before.regions1
        ]
        assert all(r.mask is b.mask for r, b in zip(record.regions1, before.regions1, strict=True))
        assert text_size(record) == (len(before.regions1), 0)
    sample = make_sample(bare[1], np.random.default_rng(0), image_size=16)
    assert sample.caption is sample.phrase is sample.question is sample.references is sample.phrases is None
    assert [record.key for record in bare[1:]] == ["tiny/train/1", "tiny/train/2"]


def test_both_frames_lose_their_captions_and_a_still_pair_stays_one(tiny_source, region, image_ref):
    source = tiny_source(2)
    first = source.records[0]
    source.records[0] = replace(first, image2=image_ref("other"), regions2=tuple(region(n) for n in range(3)))
    pair, still = without_captions(lambda: still_pairs(lambda: source))
    assert not any(r.captions for r in (*pair.regions1, *pair.regions2, *still.regions1))  # pyright: ignore
    assert pair.regions2 is not pair.regions1 and still.regions2 is still.regions1


def test_still_pairs_are_pairs_of_an_image_with_itself(tiny_source, region, image_ref):
    source = tiny_source(2)
    frames = replace(source.records[0], image2=image_ref("other"), regions2=tuple(region(n) for n in range(3)))
    source.records[0] = frames
    pairs = still_pairs(lambda: source)
    assert pairs[0] is frames
    still = pairs[1]
    assert still == replace(source[1], image2=source[1].image1, regions2=source[1].regions1)
    assert source_has_captions(pairs) and pairs.has_phrases
    single = make_sample(source[1], np.random.default_rng(3), image_size=16, regions_per_image=2)
    double = make_sample(still, np.random.default_rng(3), image_size=16, regions_per_image=2)
    assert double.image2 is double.image1 and double.mask2 is double.mask1
    assert torch.equal(double.image1, single.image1) and torch.equal(double.mask1, single.mask1)
    assert (double.caption, double.phrase, double.region_ids) == (single.caption, single.phrase, single.region_ids)
    other = make_sample(frames, np.random.default_rng(3), image_size=16, regions_per_image=2)
    batch = collate([double, other])
    assert batch.image2 is not None and torch.equal(batch.image2[0], batch.image1[0])
    assert batch.mask2 is not None and torch.equal(batch.mask2[:2], batch.mask1[:2])
    with pytest.raises(DataError, match="tiny/train/0 is a pair.*tiny/train/1 a single.*rewritten.still_pairs"):
        collate([other, single])


def test_a_still_pair_is_read_once(tiny_source, monkeypatch):
    record = still_pairs(lambda: tiny_source(1))[0]
    speck = np.zeros((24, 32), np.uint8)
    speck[13, 21] = 1  # vanishes at 8 × 8
    regions = (replace(record.regions1[0], mask=speck), *record.regions1[1:])
    read: list[str] = []

    def counted(name: str):
        original = getattr(sample_module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            read.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(sample_module, name, call)

    counted("read_image")
    counted("decode_resized")

    def made(record: Record) -> tuple[Any, list[str]]:
        read.clear()
        return make_sample(record, np.random.default_rng(0), image_size=8, regions_per_image=None), sorted(read)

    still, once = made(replace(record, regions1=regions, regions2=regions))
    # Equal, but not the same objects: bitmaps do not compare, so these are read as two frames.
    apart, twice = made(replace(record, regions1=regions, regions2=tuple(replace(r) for r in regions)))
    assert once == ["decode_resized"] * 3 + ["read_image"] and twice == ["decode_resized"] * 6 + ["read_image"] * 2
    assert torch.equal(still.image2, apart.image2) and torch.equal(still.mask2, apart.mask2)
    assert torch.equal(still.mask2, apart.mask1) and (still.tiny_regions, apart.tiny_regions) == (1, 2)


@pytest.mark.parametrize("function", [without_captions, still_pairs])
def test_sources_are_copied_to_workers(tiny_source, function):
    source = function(lambda: tiny_source(2))
    copy: RewrittenSource = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source) and copy.name == "tiny"
    made = DrawnSamples((copy,), 0, SampleOptions(16), lambda epoch: np.zeros((2, 2), np.int64))[Draw(0, 0, 0, 1)].made
    assert isinstance(made, sample_module.Sample) and made.key == "tiny/train/1"
    copy = pickle.loads(pickle.dumps(function(lambda: tiny_source(1))))
    assert (copy[0].regions2 is copy[0].regions1) == (function is still_pairs)


def test_bad_records_raise_as_in_their_source():
    class Lost(Telling):
        def __getitem__(self, index):
            raise self.bad[2]

    with pytest.raises(DataError, match="told/train/2: lost"):
        without_captions(lambda: Lost([None] * 3))[2]


def test_a_fifth_with_captions_and_the_rest_without(tiny_source):
    source = tiny_source(10)
    labelled = split_part(lambda: source, "train", 0.8)
    bare = without_captions(lambda: split_part(lambda: source, "val", 0.8))
    assert (len(labelled), len(bare)) == (2, 8) and labelled.has_captions and not bare.has_captions
    assert [record.key for record in labelled] + [record.key for record in bare] == [record.key for record in source]


def test_words_of_conversations_go_too_and_videos_keep_their_masks(spoken_records):
    silent = without_captions(lambda: spoken_records)
    assert not (silent.has_turns or silent.has_captions or silent.has_phrases)
    video, talk = silent[0], silent[1]
    assert talk.turns == () and [region.frame_masks for region in video.regions1] == [
        region.frame_masks for region in spoken_records[0].regions1
    ]
    assert all(region.may_be_empty and not region.captions for region in video.regions1)
    with pytest.raises(DataError, match="no regions and no turns"):
        make_sample(silent[2], np.random.default_rng(0), image_size=16)


def test_pairs_of_videos_and_texts(spoken_records):
    paired = still_pairs(lambda: spoken_records)
    assert paired.has_turns
    sample = make_sample(paired[0], np.random.default_rng(0), image_size=16, frames_per_sample=2)
    assert sample.image2 is not None and torch.equal(sample.image2, sample.image1) and sample.frames is not None
    with pytest.raises(DataError, match="texts/train/2: a text without an image"):
        paired[2]
