"""Videos, conversations, texts without an image and empty targets: stored once, read back equal, old groups as ever."""

from __future__ import annotations

import json
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.record import Member, Record
from maskcap.data.rle import decode_mask, empty_rle
from maskcap.data.shards import ShardSource
from maskcap.data.shards.encode import StoredFile, encode_group
from maskcap.data.shards.index import SetIndex, Sidecar
from maskcap.data.shards.records import decode_group
from maskcap.data.shards.write import write_shards
from maskcap.data.source_facts import source_has_turns, text_size
from maskcap.errors import DataError


def groups_of(folder: Path) -> tuple[list[str], list[dict]]:
    """The members' names of the first shard, and its groups' JSON."""
    with tarfile.open(folder / "shard-000000.tar") as tar:
        names = tar.getnames()
        return names, [json.load(tar.extractfile(name)) for name in names if name.endswith(".json")]  # type: ignore[arg-type]


def assert_equal(there: Record, original: Record) -> None:
    """Every field, with files as what they show and masks as what they draw."""
    assert (there.key, there.turns) == (original.key, original.turns)
    assert (there.image1 is None) == (original.image1 is None) and len(there.frames) == len(original.frames)
    for a, b in zip(there.image_refs, original.image_refs, strict=True):
        assert (a.height, a.width, a.frame) == (b.height, b.width, b.frame)
        assert np.array_equal(read_image(a), read_image(b))
    for a, b in zip(there.regions1, original.regions1, strict=True):
        assert replace(a, mask=[], frame_masks=()) == replace(b, mask=[], frame_masks=())
        for mask, wanted in zip((a.mask, *a.frame_masks), (b.mask, *b.frame_masks), strict=True):
            assert np.array_equal(decode_mask(mask, 24, 32), decode_mask(wanted, 24, 32))


def test_records_with_frames_and_turns_read_back_equal(spoken_records, tiny_source, tmp_path: Path):
    records = [*spoken_records, *tiny_source(2).records]
    write_shards(records, tmp_path / "out", workers=0)
    there = ShardSource(tmp_path / "out")
    # By image: the phrase that means nothing stands with the video, whose first frame it is of.
    originals = [records[i] for i in (0, 3, 1, 2, 4, 5)]
    for number, (record, original) in enumerate(zip(there, originals, strict=True)):
        assert_equal(record, original)
        assert there.text_size_of(number) == text_size(original)
    assert there.has_captions and there.has_phrases and there.has_turns and source_has_turns(there)
    names, groups = groups_of(tmp_path / "out")
    assert [group["format"] for group in groups] == [2, 2, 2, 1, 1]
    assert [name for name in names if name.startswith("000000000")] == [
        "000000000.json", "000000000.png", "000000000.1.png", "000000000.2.png", "000000000.3.png",
    ]  # fmt: skip
    assert len(groups[0]["masks"]) == 5  # four places and nothing, though the regions have eight
    assert [name for name in names if name.startswith("000000002")] == ["000000002.json"]  # no image


def test_a_video_file_is_stored_once_for_all_its_frames(source, spoken_records, tmp_path: Path):
    still = source("sav", 1)[0].image1
    frames = tuple(replace(still, frame=number) for number in (0, 8, 20))
    region = replace(spoken_records[0].regions1[0], mask=(mask := empty_rle(64, 64)), frame_masks=(mask,) * 3)
    record = Record("videos/train/0", frames[0], (region,), frames=frames)
    write_shards([record], tmp_path / "out", workers=0)
    names, _ = groups_of(tmp_path / "out")
    assert names == ["000000000.json", "000000000.mp4"]
    (there,) = ShardSource(tmp_path / "out")
    assert [ref.frame for ref in there.frames] == [0, 8, 20] and there.image1 == there.frames[0]
    assert np.array_equal(read_image(there.frames[2]), read_image(frames[2]))


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        (range(1000), [(0, 1000, 1)]),
        (range(2, 60, 4), [(2, 15, 4)]),
        ((0, 1, 2, 4, 6, 5), [(0, 3, 1), (4, 2, 2), 1]),
        ((3, 3, 2, 1), [0, (3, 3, -1)]),
        ((7,), [0]),
    ],
)
def test_frames_that_lie_evenly_are_one_entry(source, spoken_records, tmp_path: Path, numbers, written):
    still = source("sav", 1)[0].image1
    files = {still.path: StoredFile("0.mp4", b"", "00" * 32)}
    frames = tuple(replace(still, frame=number) for number in numbers)
    record = Record("videos/train/0", frames[0], (), frames=frames, turns=spoken_records[2].turns)
    data = encode_group([record], files)
    entries = json.loads(data)["records"][0]["frames"]
    found = [each if isinstance(each, int) else (each["first"], each["count"], each.get("step", 1)) for each in entries]
    assert found == written and len(data) < 900
    there = decode_group(data, Member("a.tar", "0.json", 512, len(data))).record(0)
    assert there.frames == tuple(replace(frame, path=there.image1.path) for frame in frames)  # type: ignore[union-attr]


def test_frames_of_other_files_and_sizes_are_other_entries(image_ref, source, spoken_records):
    still = source("sav", 1)[0].image1
    wide = replace(still, width=still.width + 2)
    frames = (still, replace(still, frame=1), replace(wide, frame=2), replace(wide, frame=3, upright=True))
    frames = (*frames, image_ref("one"), image_ref("two"))
    files = {ref.path: StoredFile(f"{i}.bin", b"", "00" * 32) for i, ref in enumerate(frames)}
    record = Record("videos/train/0", frames[0], (), frames=frames, turns=spoken_records[2].turns)
    data = encode_group([record], files)
    entries = json.loads(data)["records"][0]["frames"]
    assert [type(each) for each in entries] == [dict, int, int, int, int]
    there = decode_group(data, Member("a.tar", "0.json", 512, len(data))).record(0)
    told = [(ref.height, ref.width, ref.frame, ref.upright) for ref in there.frames]
    assert told == [(ref.height, ref.width, ref.frame, ref.upright) for ref in frames]
    assert len({ref.path for ref in there.frames}) == 3


@pytest.mark.parametrize("part", ["upright", "empty", "other frame"])
def test_what_format_1_cannot_say_is_format_2(tiny_source, spoken_records, part: str):
    (plain,) = tiny_source(1).records
    files = {plain.image1.path: StoredFile("0.png", b"", "00" * 32)}
    record = replace(plain, image2=plain.image1, regions2=plain.regions1)
    assert json.loads(encode_group([record], files))["format"] == 1
    free = tuple(replace(region, may_be_empty=True) for region in plain.regions1)
    changed = {
        "upright": replace(record, image1=replace(plain.image1, upright=True)),
        "empty": replace(record, regions1=free),
        "other frame": replace(record, regions2=free),
    }[part]
    data = encode_group([changed], files)
    assert json.loads(data)["format"] == 2
    there = decode_group(data, Member("a.tar", "0.json", 512, len(data))).record(0)
    assert [ref.upright for ref in there.image_refs] == [ref.upright for ref in changed.image_refs]
    for regions, wanted in ((there.regions1, changed.regions1), (there.regions2, changed.regions2)):
        assert regions is not None and wanted is not None
        assert [region.may_be_empty for region in regions] == [region.may_be_empty for region in wanted]


def test_words_of_turns_are_no_captions(spoken_records, tmp_path: Path):
    write_shards(spoken_records[1:3], tmp_path / "out", workers=0)
    there = ShardSource(tmp_path / "out")
    assert there.has_turns and not there.has_captions and not there.has_phrases


def test_without_turns_indices_are_as_they_were_before(tiny_source, tmp_path: Path):
    write_shards(tiny_source(2), tmp_path / "out", workers=0)
    index, sidecar = (json.loads((tmp_path / "out" / name).read_text()) for name in ("index.json", "shard-000000.json"))
    assert "has_turns" not in index and list(sidecar["records"]) == [
        "key", "group", "regions", "characters", "phrases",
    ]  # fmt: skip
    assert not ShardSource(tmp_path / "out").has_turns
    data = (tmp_path / "out" / "shard-000000.json").read_bytes()
    read = Sidecar.from_json(data, "")
    assert read.to_json() == data and read.records.captions == [1, 1] and read.records.turns == [0, 0]
    assert {field.name for field in fields(SetIndex)} - index.keys() == {"has_turns"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, turns=(replace(r.turns[0], answer=" "), *r.turns[1:])), "the answer is empty"),
        (lambda r: replace(r, regions1=r.regions1[:1]), "has the mask of region 2"),
    ],
)
def test_bad_turns_are_not_stored(spoken_records, tmp_path: Path, change, message: str):
    with pytest.raises(DataError, match=message):
        write_shards([change(spoken_records[1])], tmp_path / "out", workers=0)


def test_a_frame_that_does_not_decode_is_named(spoken_records, tmp_path: Path):
    video = spoken_records[0]
    path = video.frames[2].path
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="videos/train/0"):
        write_shards([video], tmp_path / "out", workers=0)
    silent = replace(video, regions1=(), turns=spoken_records[2].turns)  # of a video without masks, three are looked at
    wanted = replace(silent, frames=tuple(video.frames[number] for number in (0, 2, 1, 3)))
    write_shards([wanted], tmp_path / "again", workers=0)
    assert len(ShardSource(tmp_path / "again")[0].frames) == 4
