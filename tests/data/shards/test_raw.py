"""SA-1B's tars as they are published: read without conversion, with every damage named."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import pytest

from maskcap.data.record import Record
from maskcap.data.shards import ShardSource, scan_cache
from maskcap.data.shards import scan as scan_module
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import SA1BSource
from maskcap.errors import ConfigError, DataError, ShardError

from .conftest import cut, flip, swap

BLOCK = 512


@pytest.fixture
def first(raw_tars: Path) -> Path:
    """The first tar; the other one stays as it is."""
    return raw_tars / "sa_000000.tar"


@pytest.fixture
def good(scenes: Path, read_all) -> Callable[[Sequence[Record]], list[str]]:
    """good(there): numbers N of the samples that come; asserts that each is the undamaged one."""

    def read(there: Sequence[Record]) -> list[str]:
        keys, errors = read_all(there, SA1BSource(scenes))
        for error in errors.values():
            assert isinstance(error, ShardError) or error.reason == "unreadable annotation", error
        return [key.rpartition("/")[2] for key in keys]

    return read


@pytest.fixture
def numbers(scenes: Path) -> list[str]:
    return [SA1BSource(scenes).key_of(i).rpartition("/")[2] for i in range(6)]


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar.getmembers()}


def problems(there: ShardSource) -> list[tuple[str, str]]:
    """(key, reason) of the bad ones, in order."""
    return [(there.key_of(i).replace(os.path.dirname(there.key_of(i)), "…"), e.reason) for i, e in there.bad.items()]


@pytest.mark.parametrize("how", ["folder", "pattern", "list", "url"])
def test_the_samples_are_those_of_the_files(how: str, raw_tars: Path, scenes: Path, assert_same):
    tars = sorted(map(str, raw_tars.glob("*.tar")))
    if how == "url":
        fsspec.filesystem("memory").put(str(raw_tars), "/raw", recursive=True)
    places: dict[str, str | list[str]] = {"folder": str(raw_tars), "pattern": f"{raw_tars}/sa_*.tar", "list": tars}
    there = ShardSource(places[how] if how in places else "memory://raw")
    assert_same(there, SA1BSource(scenes))
    assert (there.name, there.has_captions, there.has_phrases, there.blocks) == ("sa1b", False, False, (3, 3))
    assert there.bad == {} and there.text_size_of(0) is None and len({there.image_of(i) for i in range(6)}) == 6


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_other_kinds_of_tar(style: int, raw_tars: Path, scenes: Path, assert_same, tmp_path: Path):
    folder = "a/" * 60
    with tarfile.open(tmp_path / "one.tar", "w", format=style) as tar:
        tar.add(scenes / "sa1b", "images", recursive=False)
        for path in sorted((scenes / "sa1b").glob("sa_*")):
            name = f"{folder if style == tarfile.PAX_FORMAT else ''}{path.name}"
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = path.stat().st_size, 0.5 if style == tarfile.PAX_FORMAT else 1  # pyright: ignore
            tar.addfile(entry, io.BytesIO(path.read_bytes()))
        tar.addfile(tarfile.TarInfo("readme.txt"))
    assert_same(ShardSource(tmp_path / "one.tar"), SA1BSource(scenes))


def test_long_names_of_gnu_tar(scenes: Path, assert_same, tmp_path: Path):
    with tarfile.open(tmp_path / "one.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted((scenes / "sa1b").glob("sa_*")):
            tar.add(path, f"{'folder/' * 20}{path.name}")
    assert_same(ShardSource(tmp_path / "one.tar"), SA1BSource(scenes))


@pytest.mark.parametrize("size", ["12x", "", "-5", "9" * 19, "9" * 5000, "١٢"])
def test_a_size_that_is_none_is_damage_of_that_member(size: str, scenes: Path, tmp_path: Path, numbers, good):
    with tarfile.open(tmp_path / "one.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in numbers:
            for kind in ("jpg", "json"):
                data = (scenes / "sa1b" / f"sa_{number}.{kind}").read_bytes()
                entry = tarfile.TarInfo(f"sa_{number}.{kind}")
                entry.size = len(data)
                entry.pax_headers = {"size": size} if (number, kind) == (numbers[2], "json") else {}
                tar.addfile(entry, io.BytesIO(data))
    there = ShardSource(tmp_path / "one.tar")
    assert problems(there) == [(f"…/{numbers[2]}", "damaged shard")] and good(there) == [*numbers[:2], *numbers[3:]]
    assert f"the member sa_{numbers[2]}.json: the note before it says that its size is '" in str(there.bad[2])


def test_the_headers_are_read_once(raw_tars: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, numbers, good):
    scanned: list[str] = []

    def scan(shard: str, length: int) -> list[scan_module.Slot]:
        scanned.append(os.path.basename(shard))
        return scan_module.scan_tar(shard, length)

    monkeypatch.setattr(scan_cache, "scan_tar", scan)
    assert good(ShardSource(raw_tars)) == good(ShardSource(raw_tars)) == numbers
    assert sorted(scanned) == ["sa_000000.tar", "sa_000001.tar"] and len(list(cache_folder.iterdir())) == 2
    for kept in cache_folder.iterdir():
        cut(kept, 100)
    os.utime(raw_tars / "sa_000001.tar", ns=(1, 1))
    assert good(ShardSource(raw_tars)) == numbers and len(scanned) == 4


def test_a_cache_that_cannot_be_written_costs_time_only(
    raw_tars: Path, numbers, good, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert good(ShardSource(raw_tars)) == numbers and "will be read again" in caplog.text


def test_a_cut_in_a_header(first: Path, raw_tars: Path, numbers: list[str], good):
    third = members(first)[f"./sa_{numbers[2]}.json"]
    cut(first, third.offset + 100)
    there = ShardSource(raw_tars)
    assert problems(there) == [(f"…/{numbers[2]}", "missing member"), ("…/(end)", "truncated shard")]
    assert "it ends 100 bytes into a header" in str(there.bad[3]) and str(first) in str(there.bad[3])
    assert good(there) == [*numbers[:2], *numbers[3:]] and there.blocks == (4, 3)


def test_a_cut_in_a_body(first: Path, raw_tars: Path, numbers: list[str], good):
    third = members(first)[f"./sa_{numbers[2]}.json"]
    cut(first, third.offset_data + 10)
    there = ShardSource(raw_tars)
    assert problems(there) == [(f"…/{numbers[2]}", "truncated shard"), ("…/(end)", "truncated shard")]
    assert f"bytes before the end of the member ./sa_{numbers[2]}.json" in str(there.bad[2])
    assert good(there) == [*numbers[:2], *numbers[3:]]


def test_a_cut_between_members_and_at_the_end(first: Path, raw_tars: Path, numbers: list[str], good):
    whole, third = first.read_bytes(), members(first)[f"./sa_{numbers[2]}.jpg"]
    first.write_bytes(whole[: third.offset])
    there = ShardSource(raw_tars)
    assert problems(there) == [("…/(end)", "truncated shard")] and "no end mark" in str(there.bad[2])
    assert good(there) == [*numbers[:2], *numbers[3:]]
    first.write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % BLOCK))
    there = ShardSource(raw_tars)
    assert problems(there) == [("…/(end)", "truncated shard")] and good(there) == numbers


def test_a_flipped_bit_in_a_header_costs_one_sample(first: Path, raw_tars: Path, numbers: list[str], good):
    second = members(first)[f"./sa_{numbers[1]}.jpg"]
    flip(first, second.offset + 126, bit=1)
    there = ShardSource(raw_tars)
    key = f"(byte {second.offset})"
    assert problems(there) == [(f"…/{key}", "damaged shard"), (f"…/{numbers[1]}", "missing member")]
    assert good(there) == [numbers[0], *numbers[2:]]


def test_a_flipped_bit_in_an_annotation_is_seen_where_json_shows_it(first: Path, raw_tars: Path, numbers, good):
    flip(first, members(first)[f"./sa_{numbers[1]}.json"].offset_data)
    there = ShardSource(raw_tars)
    with pytest.raises(DataError, match=f"sa_{numbers[1]}.json: not valid JSON"):
        there[1]
    assert good(there) == [numbers[0], *numbers[2:]]


def test_a_hole_of_zeros(first: Path, raw_tars: Path, numbers: list[str], good):
    data, second = bytearray(first.read_bytes()), members(first)[f"./sa_{numbers[1]}.jpg"]
    data[second.offset : second.offset + 2 * BLOCK] = bytes(2 * BLOCK)
    first.write_bytes(data)
    there = ShardSource(raw_tars)
    assert [reason for _, reason in problems(there)] == ["damaged shard", "missing member"]
    assert "zeros, like an end mark" in str(there.bad[1]) and good(there) == [numbers[0], *numbers[2:]]


def test_tars_one_after_the_other_in_a_file(raw_tars: Path, first: Path, numbers: list[str], good):
    first.write_bytes(first.read_bytes() + (raw_tars / "sa_000001.tar").read_bytes())
    (raw_tars / "sa_000001.tar").unlink()
    there = ShardSource(raw_tars)
    assert [reason for _, reason in problems(there)] == ["damaged shard"] and good(there) == numbers


def test_swapped_tars_after_the_headers_were_read(raw_tars: Path, first: Path, numbers: list[str], good):
    there = ShardSource(raw_tars)
    swap(first, raw_tars / "sa_000001.tar")
    assert good(there) == []
    with pytest.raises(ShardError, match=rf"sa_000000\.tar/\./sa_{numbers[0]}.json: expected at byte"):
        there[0]
    assert sorted(good(ShardSource(raw_tars))) == sorted(numbers)


def test_a_missing_tar(raw_tars: Path, first: Path, numbers: list[str], good):
    there = ShardSource([first, raw_tars / "sa_000001.tar", raw_tars / "sa_000002.tar"])
    assert problems(there) == [("…/(missing)", "missing shard")] and good(there) == numbers
    first.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        ShardSource([first])


@pytest.mark.parametrize("kind", ["jpg", "json"])
def test_a_missing_member(kind: str, raw_tars: Path, first: Path, numbers: list[str], scenes: Path, good):
    with tarfile.open(first, "w") as tar:
        for n in numbers[:3]:
            for ending in ("json", "jpg"):
                if (n, ending) != (numbers[1], kind):
                    tar.add(scenes / "sa1b" / f"sa_{n}.{ending}", f"sa_{n}.{ending}")
    there = ShardSource(raw_tars)
    assert problems(there) == [(f"…/{numbers[1]}", "missing member")]
    assert f"the member sa_{numbers[1]}.{kind} is missing" in str(there.bad[1])
    assert good(there) == [numbers[0], *numbers[2:]]


def test_a_name_that_is_there_twice(raw_tars: Path, first: Path, numbers: list[str], scenes: Path, good):
    with tarfile.open(first, "a") as tar:
        tar.add(scenes / "sa1b" / f"sa_{numbers[2]}.jpg", f"./sa_{numbers[1]}.jpg")
    there = ShardSource(raw_tars)
    assert problems(there) == [(f"…/{numbers[1]}", "duplicate key")] and good(there) == [numbers[0], *numbers[2:]]
    shutil.copy(raw_tars / "sa_000001.tar", raw_tars / "sa_000002.tar")
    there = ShardSource(raw_tars)
    assert problems(there)[1:] == [(f"…/{n}", "duplicate key") for n in numbers[3:]]
    assert "sa_000001.tar" in str(there.bad[6]) and "sa_000002.tar" in str(there.bad[6])
    assert good(there) == [numbers[0], *numbers[2:]]


def test_an_annotation_of_another_image(raw_tars: Path, first: Path, numbers: list[str], scenes: Path):
    with tarfile.open(first, "w") as tar:
        tar.add(scenes / "sa1b" / f"sa_{numbers[0]}.jpg", f"sa_{numbers[0]}.jpg")
        tar.add(scenes / "sa1b" / f"sa_{numbers[1]}.json", f"sa_{numbers[0]}.json")
    content = json.loads((scenes / "sa1b" / f"sa_{numbers[1]}.json").read_bytes())
    assert content["image"]["file_name"] == f"sa_{numbers[1]}.jpg"
    with pytest.raises(ShardError, match=f"it is the annotation of sa_{numbers[1]}.jpg"):
        ShardSource(raw_tars)[0]


def test_places_that_are_no_set(raw_tars: Path, tmp_path: Path, shards: Path):
    (tmp_path / "empty").mkdir()
    for place, message in [
        (tmp_path / "empty", r"no such folder, or no tars in it"),
        (tmp_path / "nowhere", r"no such folder, or no tars in it"),
        (f"{tmp_path}/no*.tar", "no file fits this pattern"),
        (f"{shards}/*.tar", r"no member sa_N\.jpg or sa_N\.json.*name the folder"),
    ]:
        with pytest.raises(ShardError, match=message):
            ShardSource(place)
    with pytest.raises(ConfigError, match="the list is empty"):
        ShardSource([])
    with pytest.raises(ConfigError, match="is a set of its own"):
        ShardSource([shards, raw_tars])
    with pytest.raises(ConfigError, match="nosuchprotocol"):
        ShardSource("nosuchprotocol://bucket/shards")


def test_published_tars_can_be_sharded(raw_tars: Path, scenes: Path, assert_same, tmp_path: Path, contents):
    write_shards(ShardSource(raw_tars), tmp_path / "out", workers=2)
    assert_same(ShardSource(tmp_path / "out"), SA1BSource(scenes))
    write_shards(SA1BSource(scenes), tmp_path / "files", workers=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "files")
