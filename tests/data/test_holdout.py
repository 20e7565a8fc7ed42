from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from maskcap.data.holdout import RecordSubset, hold_out, source_has_captions, source_has_phrases
from maskcap.data.record import ImageRef, Record
from maskcap.errors import ConfigError, DataError


def frames(*counts: int) -> list[Record]:
    """Records of videos with so many frames each; nothing is on disk."""
    return [
        Record(f"sav/train/{video}_{frame}", ImageRef(Path(f"{video}.mp4"), 8, 8, frame), ())
        for video, count in enumerate(counts)
        for frame in range(count)
    ]


def test_parts_are_disjoint_and_complete():
    records = frames(*[1] * 50)
    train, val = hold_out(records, 0.1)
    assert (len(train), len(val)) == (45, 5)
    assert list(train) + list(val) == records
    assert val[0] == records[45] and val[-1] == records[-1] and val[1:3] == records[46:48]
    with pytest.raises(IndexError):
        val[5]


def test_the_cut_spares_videos():
    records = frames(10, 10, 10)
    train, val = hold_out(records, 0.05)
    assert (len(train), len(val)) == (20, 10)
    train, val = hold_out(records, 1 / 3)
    assert (len(train), len(val)) == (20, 10)


def test_a_single_video_is_cut_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        train, val = hold_out(frames(10), 0.2)
    assert (len(train), len(val)) == (8, 2) and "share its only image" in caplog.text


def test_images_whose_records_are_apart_are_held_out_whole():
    records = [record for i in range(10) for record in (frames(*[1] * 10)[i], frames(*[1] * 10)[(7 * i) % 10])]
    train, val = hold_out(records, 0.2)
    sides = [{record.image1.path for record in part} for part in (train, val)]
    assert len(train) + len(val) == 20 and len(val) == 4 and not sides[0] & sides[1]
    assert sides[1] == {records[-1].image1.path, records[-2].image1.path}
    assert list(train) == [record for record in records if record.image1.path in sides[0]]
    assert [record.key for record in hold_out(records, 0.2)[1]] == [record.key for record in val]


def test_a_sources_own_image_names_spare_its_annotations():
    class Named(list):
        def image_of(self, index: int) -> str:
            return "ab"[index // 3]

    train, val = hold_out(Named([None] * 6), 0.1)  # type: ignore[arg-type]
    assert (len(train), len(val)) == (3, 3)
    assert (train.image_of(0), val.image_of(0)) == ("a", "b")


def test_at_least_one_record_on_either_side():
    for fraction in (0.001, 0.999):
        train, val = hold_out(frames(1, 1, 1), fraction)
        assert min(len(train), len(val)) == 1


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="val_fraction=0"):
        hold_out(frames(1, 1), 0)
    with pytest.raises(DataError, match="has 1 records"):
        hold_out(frames(1), 0.5)


def test_captions_of_a_source_and_its_ranges(tiny_source, region):
    source = tiny_source(2)
    assert RecordSubset(source, range(1)).has_captions and RecordSubset(source, range(1)).name == "tiny"
    source.has_captions = False
    assert not RecordSubset(source, range(1)).has_captions
    assert source_has_captions(source.records) and not source_has_captions(frames(2))


def test_phrases_are_captions_that_single_a_region_out(tiny_source):
    source = tiny_source(2)
    assert RecordSubset(source, range(9)).has_phrases and len(RecordSubset(source, range(9))) == 2
    blind = [replace(r, regions1=tuple(replace(g, referring=False) for g in r.regions1)) for r in source.records]
    assert source_has_captions(blind) and not source_has_phrases(blind)
    source.has_phrases = False
    assert not RecordSubset(source, range(1)).has_phrases


def test_known_bad_records_are_not_what_validates():
    class Damaged(list):
        bad = {i: DataError(f"{i}: lost.") for i in (7, 8, 9)}

    train, val = hold_out(Damaged(frames(*[1] * 10)), 0.2)
    assert [record.image1.path.stem for record in val] == ["5", "6"] and sorted(train.bad) == [5, 6, 7]
    Damaged.bad = {i: DataError(f"{i}: lost.") for i in range(10)}
    with pytest.raises(DataError, match="every image has a bad record"):
        hold_out(Damaged(frames(*[1] * 10)), 0.2)
