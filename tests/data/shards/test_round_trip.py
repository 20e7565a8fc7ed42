"""Record → shard → record: the same samples, whatever the source; and readable by other people's readers."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from maskcap.data.holdout import RecordSubset, hold_out
from maskcap.data.images import read_image, resize_image
from maskcap.data.record import ImageRef, Member, Record, Region
from maskcap.data.rle import decode_mask
from maskcap.data.shards import ShardSource
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards
from maskcap.data.source_facts import image_of, text_size


@pytest.mark.parametrize("name", ["sa1b", "sav", "pairs", "refcoco", "osprey", "questions"])
def test_every_source_gives_the_same_samples_from_shards(name: str, source, assert_same, tmp_path: Path):
    original = source(name, 40)
    write_shards(original, tmp_path, ShardOptions(groups_per_shard=7), workers=0)
    there = ShardSource(tmp_path)
    assert_same(there, original)
    assert (there.name, there.has_captions, there.has_phrases) == (
        original.name,
        original.has_captions,
        original.has_phrases,
    )
    assert there.bad == {} and sum(there.blocks) == len(original)
    for i, record in enumerate(there):
        assert (there.key_of(i), there.text_size_of(i)) == (record.key, text_size(record))
    images = len({original.image_of(i) for i in range(len(original))})
    assert len({there.image_of(i) for i in range(len(there))}) == images


def test_a_video_and_its_masks_are_stored_once(source, tmp_path: Path, scenes: Path):
    write_shards(source("pairs", 1000), tmp_path, workers=0)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        names = tar.getnames()
        groups = [json.load(tar.extractfile(name)) for name in names if name.endswith(".json")]  # pyright: ignore
        videos = [tar.extractfile(name).read() for name in names if name.endswith(".mp4")]  # pyright: ignore
    assert names == ["000000000.json", "000000000.mp4", "000000001.json", "000000001.mp4"]
    assert videos == [path.read_bytes() for path in sorted((scenes / "sav").glob("sav_*.mp4"))]
    for group in groups:
        assert len({image["frame"] for image in group["images"]}) == len(group["images"]) > 2
        for image in group["images"]:
            masks = [json.dumps(region["mask"]) for region in image["regions"]]
            assert len(set(masks)) == len(masks)


def test_records_of_one_image_stand_together_and_share_its_file(source, assert_same, tmp_path: Path):
    first, second, *others = source("osprey", 4)
    again = replace(first, key="osprey/again/1", regions1=first.regions1[:1])
    records = [first, second, again, *others]
    write_shards(records, tmp_path, workers=0)
    there = ShardSource(tmp_path)
    assert [record.key for record in there] == [first.key, again.key, second.key, *(other.key for other in others)]
    assert_same(there, records)
    train, val = hold_out(there, 0.2)
    assert not {image_of(train, i) for i in range(len(train))} & {image_of(val, i) for i in range(len(val))}


def test_bitmaps_bytes_and_arrays_are_stored_as_what_they_draw(image_ref, region, tmp_path: Path):
    mask_HW = np.zeros((24, 32), bool)
    mask_HW[3:9, 4:20] = True
    runs = {"size": (24, 32), "counts": np.array([3, 765])}
    polygon = [np.array([1.5, 2, 20, 2.25, 10, 20])]
    counts = region(2).mask
    assert isinstance(counts["counts"], bytes)
    masks = {"bitmap": mask_HW, "runs": runs, "polygon": polygon, "bytes": counts}
    regions = tuple(Region(mask, ("a\ud83db", "héé"), name, (None, "why?"), False) for name, mask in masks.items())
    record = Record("tiny/train/0", image_ref("a"), regions)
    write_shards([record], tmp_path, workers=0)
    (there,) = ShardSource(tmp_path)
    for region, original in zip(there.regions1, regions, strict=True):
        assert (decode_mask(region.mask, 24, 32) == decode_mask(original.mask, 24, 32)).all()
        assert replace(region, mask=[]) == replace(original, mask=[])


def test_a_pair_of_two_stills_keeps_both(image_ref, region, assert_same, tmp_path: Path):
    regions = (region(0), region(1))
    pair = Record("tiny/train/0", image_ref("a", seed=1), regions, image_ref("b", seed=2), regions[::-1])
    write_shards([pair], tmp_path, workers=0)
    assert_same(ShardSource(tmp_path), [pair])
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert tar.getnames() == ["000000000.json", "000000000.png", "000000000.1.png"]


def test_webdataset_reads_them(shards: Path, source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        data = webdataset.WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)  # pyright: ignore
        samples = list(data)
    originals = source()
    assert [sample["__key__"] for sample in samples] == [f"{i:09d}" for i in range(15)]
    for sample, record in zip(samples, originals, strict=True):
        assert sample["jpg"] == record.image1.path.read_bytes()
        assert json.loads(sample["json"])["records"][0]["key"] == record.key


def test_headers_say_nothing_of_who_wrote_them_or_when(shards: Path):
    with tarfile.open(shards / "shard-000001.tar", "r:") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:2]] == ["000000005.json", "000000005.jpg"] and len(members) == 10
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def noise(path: Path, height: int, width: int, **options) -> ImageRef:
    rng = np.random.default_rng(height)
    small = rng.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.convert(options.pop("mode", "RGB")).save(path, **options)
    return ImageRef(path, height, width)


def test_resized_copies(region, tmp_path: Path):
    refs = {
        "420": noise(tmp_path / "a.jpg", 96, 160, quality=90, subsampling=2),
        "444": noise(tmp_path / "b.jpg", 104, 88, quality=90, subsampling=0),
        "Gray": noise(tmp_path / "c.jpg", 112, 88, quality=90, mode="L"),
        "png": noise(tmp_path / "d.png", 120, 72),
        "small": noise(tmp_path / "e.jpg", 64, 32, quality=90),
    }
    records = [
        Record(f"tiny/train/{name}", ref, (region(1, height=ref.height, width=ref.width),))
        for name, ref in refs.items()
    ]
    write_shards(records, tmp_path / "out", ShardOptions(resize=64), workers=0)
    there = {record.key.rpartition("/")[2]: record for record in ShardSource(tmp_path / "out")}
    assert there["small"].image1.stored is None
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert tar.extractfile("000000004.jpg").read() == (tmp_path / "e.jpg").read_bytes()  # pyright: ignore
        for number, (name, subsampling) in enumerate(
            [("420", "420"), ("444", "444"), ("Gray", "Gray"), ("png", "444")]
        ):
            ref = there[name].image1
            assert (ref.stored, ref.height, ref.width) == ((64, 64), refs[name].height, refs[name].width)
            header = simplejpeg.decode_jpeg_header(tar.extractfile(f"{number:09d}.jpg").read())  # pyright: ignore
            assert (header[0], header[1], header[3]) == (64, 64, subsampling)
            expected = resize_image(read_image(refs[name]), 64).astype(int)
            difference = np.abs(read_image(ref).astype(int) - expected)
            assert difference.mean() < 2 and difference.max() < 20
            mask = decode_mask(there[name].regions1[0].mask, ref.height, ref.width)
            assert mask.shape == (refs[name].height, refs[name].width) and mask.sum() == 20


def test_a_url_is_written_and_read_like_a_folder(source, shards: Path, assert_same, contents, tmp_path: Path):
    url = "memory://bucket/shards"
    write_shards(source(), url, ShardOptions(groups_per_shard=5), workers=0)
    system = fsspec.filesystem("memory")
    assert {name: system.cat_file(f"/bucket/shards/{name}") for name in contents(shards)} == contents(shards)
    assert_same(ShardSource(url), source())
    again = write_shards(source(), url, ShardOptions(groups_per_shard=5), workers=0)
    assert (again.kept, again.written, again.finished) == (3, 0, True)
    system.rm_file("/bucket/shards/shard-000001.tar")
    there = ShardSource(url)
    assert sorted(there.bad) == [5, 6, 7, 8, 9] and {error.reason for error in there.bad.values()} == {"missing shard"}
    system.rm("/bucket", recursive=True)


def test_shards_can_be_sharded_again(shards: Path, source, assert_same, contents, tmp_path: Path):
    write_shards(ShardSource(shards), tmp_path / "again", ShardOptions(groups_per_shard=5), workers=0)
    tars = {name: data for name, data in contents(tmp_path / "again").items() if name.endswith(".tar")}
    assert tars == {name: data for name, data in contents(shards).items() if name.endswith(".tar")}


def test_a_source_survives_a_pickle(shards: Path, source, assert_same):
    assert_same(pickle.loads(pickle.dumps(ShardSource(shards))), source())


def test_without_verification_members_have_no_checksum(shards: Path, source, assert_same):
    there = ShardSource(shards, verify=False)
    path = there[0].image1.path
    assert isinstance(path, Member) and path.sha256 is None
    assert_same(there, source())


def test_file_urls_are_local_paths(shards: Path, source, assert_same):
    there = ShardSource(f"file://{shards}")
    assert_same(there, source())
    assert isinstance(there[0].image1.path, Member) and there[0].image1.path.shard == str(shards / "shard-000000.tar")


def test_subsets_forward_what_shards_know(shards: Path):
    subset = RecordSubset(ShardSource(shards), range(2, 15))
    assert subset.key_of(3) == ShardSource(shards).key_of(5) and subset.name == "refcoco"
