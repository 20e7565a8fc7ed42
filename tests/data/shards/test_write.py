"""The writer: the same bytes always, bad records named, finished shards kept, other plans refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from maskcap.data.holdout import RecordSubset
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.shards import ShardSource
from maskcap.data.shards.plan import ShardOptions, make_plan
from maskcap.data.shards.write import write_shards
from maskcap.errors import ConfigError, DataError, MaskDecodeError, ShardError

FIVE = ShardOptions(groups_per_shard=5)


def test_the_bytes_do_not_depend_on_workers_or_jobs(source, shards: Path, contents, tmp_path: Path):
    summary = write_shards(source(), tmp_path / "parallel", FIVE, workers=2)
    assert (summary.written, summary.kept, summary.finished) == (3, 0, True)
    assert summary.counts == {"groups": 15, "records": 15, "regions": summary.counts["regions"], "bad": 0}
    done = [write_shards(source(), tmp_path / "jobs", FIVE, workers=0, job=job, jobs=4) for job in (3, 1, 0, 2)]
    assert [each.finished for each in done] == [False, False, False, True]
    assert [each.written for each in done] == [0, 1, 1, 1]
    assert contents(tmp_path / "parallel") == contents(tmp_path / "jobs") == contents(shards)


def test_a_set_that_is_not_finished_says_so(source, tmp_path: Path):
    write_shards(source(), tmp_path, FIVE, workers=0, job=0, jobs=2)
    with pytest.raises(ShardError, match=r"there is no index\.json: the set is not finished"):
        ShardSource(tmp_path)


def test_finished_shards_are_verified_and_kept(source, shards: Path, contents, caplog: pytest.LogCaptureFixture):
    before = contents(shards)
    times = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert write_shards(source(), shards, FIVE, workers=0).kept == 3
    assert times == {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}

    data = bytearray(before["shard-000000.tar"])
    data[-5000] ^= 1
    (shards / "shard-000000.tar").write_bytes(data)
    (shards / "shard-000001.tar").unlink()
    (shards / "shard-000002.json").write_bytes(before["shard-000002.json"].replace(b"refcoco", b"refcoca"))
    (shards / "index.json").unlink()
    with caplog.at_level(logging.WARNING):
        summary = write_shards(source(), shards, FIVE, workers=0)
    assert (summary.written, summary.kept) == (3, 0) and contents(shards) == before
    said = [record.getMessage() for record in caplog.records]
    assert "shard-000000.tar does not have the sha256 in its sidecar" in said[0]
    assert "shard-000001.tar is missing" in said[1] and "does not have the checksum it ends with" in said[2]


@pytest.mark.parametrize(
    ("name", "options", "difference"),
    [
        ("refcoco", ShardOptions(groups_per_shard=4), "shards: 3 then, 4 now; groups_per_shard: 5 then, 4 now"),
        ("refcoco", replace(FIVE, resize=32), "resize: None then, 32 now"),
        ("osprey", FIVE, "source: refcoco then, osprey now"),
        ("reversed", FIVE, "other records"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(
    name: str, options: ShardOptions, difference: str, source, shards: Path, contents
):
    before = contents(shards)
    wanted = RecordSubset(source(), range(14, -1, -1)) if name == "reversed" else source(name)
    with pytest.raises(ConfigError) as error:
        write_shards(wanted, shards, options, workers=0)
    assert f"holds the shards of another plan ({difference})" in str(error.value)
    assert contents(shards) == before


def test_a_plan_asks_for_each_key_once(source):
    class Keyless(Known):
        read: list[int] = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

        def image_of(self, index: int) -> int:
            return index % 2

    records = Keyless(source())
    plan = make_plan(records, FIVE)
    assert sorted(records.read) == list(range(15)) and plan.twice == {}
    assert plan.order.tolist() == [*range(0, 15, 2), *range(1, 15, 2)] and plan.ends.tolist() == [8, 15]
    records[14] = list.__getitem__(records, 3)
    assert make_plan(records, FIVE).twice == {14: 3}


def test_a_plan_without_shards_is_replaced(source, tmp_path: Path, shards: Path, contents):
    broken = RecordSubset([replace(source()[0], regions1=())], range(1))
    with pytest.raises(DataError, match="no regions"):
        write_shards(broken, tmp_path / "out", FIVE, workers=0)
    write_shards(source(), tmp_path / "out", FIVE, workers=0)
    assert contents(tmp_path / "out") == contents(shards)


def damage(record: Record, how: str, tmp_path: Path) -> Record:
    """A record that must not be stored."""
    path = tmp_path / f"{how}.jpg"
    shutil.copy(str(record.image1.path), path)
    first, *others = record.regions1
    image: ImageRef = replace(record.image1, path=path)
    regions: dict[str, Callable[[], Region]] = {
        "empty caption": lambda: replace(first, captions=("fine", " ")),
        "malformed RLE": lambda: replace(first, mask={"size": [64, 64], "counts": "~"}),
        "malformed polygon": lambda: replace(first, mask=[[0, 0, float("nan"), 1, 2, 2]]),
        "empty mask": lambda: replace(first, mask={"size": [64, 64], "counts": [64 * 64]}),
    }
    if how in regions:
        return replace(record, regions1=(*others, regions[how]()))
    if how == "truncated image":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "missing file":
        path.unlink()
    elif how == "wrong size":
        corner = replace(first, mask=[[0, 0, 9, 0, 9, 9]])
        return replace(record, image1=replace(image, height=65), regions1=(corner,))
    return replace(record, image1=image, regions1=() if how == "no regions" else record.regions1)


HOW = ["empty caption", "malformed RLE", "malformed polygon", "empty mask", "truncated image", "missing file"]
HOW += ["wrong size", "no regions"]


def test_bad_records_stop_the_run_or_are_left_out_by_name(
    source, shards: Path, assert_same, contents, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    good = list(source())
    bad = [replace(damage(good[0], how, tmp_path), key=f"refcoco/train/{how}") for how in HOW]
    everything = [*good[:4], *bad[:5], *good[4:], *bad[5:], replace(good[3], regions1=good[3].regions1[:1])]
    for record in [*bad, everything[-1]]:
        with pytest.raises(DataError, match=record.key):
            write_shards([good[3], record], tmp_path / "raise" / record.key.replace("/", "_"), FIVE, workers=0)

    out = tmp_path / "skip"
    with pytest.raises(DataError):
        write_shards(everything, out, FIVE, workers=0)
    summary = write_shards(everything, out, FIVE, workers=2, on_bad_sample="skip")
    assert summary.counts["bad"] == 9 and summary.counts["records"] == 15
    index = json.loads((out / "index.json").read_bytes())
    assert index["bad"] == {**dict.fromkeys(sorted([*HOW, "duplicate key"]), 1)}
    lines = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {*HOW, "duplicate key"}
    assert all(line["key"] in line["message"] for line in lines)
    assert_same(ShardSource(out), good)

    before = contents(out)
    with caplog.at_level(logging.WARNING):
        summary = write_shards(everything, out, FIVE, workers=0, on_bad_sample="skip")
    assert (summary.written, summary.kept) == (2, 2) and contents(out) == before
    said = "shard-000000.tar is written again: 6 of its records were bad and may be repaired by now"
    assert said in caplog.messages[0]
    with pytest.raises(DataError, match="empty caption|caption 1"):
        write_shards(everything, out, FIVE, workers=0)
    (out / "shard-000001.tar").unlink()
    write_shards(everything, out, FIVE, workers=0, on_bad_sample="skip")
    assert contents(out) == before


class Known(list[Record]):
    """Records of one's own under the name that the plan of `shards` has."""

    name = "refcoco"


def test_a_repaired_record_is_written_by_the_next_run(source, shards: Path, contents, tmp_path: Path):
    good = Known(source())
    broken = Known([*good[:7], damage(good[7], "truncated image", tmp_path), *good[8:]])
    out = tmp_path / "out"
    assert write_shards(broken, out, FIVE, workers=0, on_bad_sample="skip").counts["bad"] == 1
    lost = replace(good[7], image1=replace(good[7].image1, path=tmp_path / "nowhere.jpg"))
    with pytest.raises(DataError, match="no such file"):  # today's error, not that of the first run
        write_shards(Known([*good[:7], lost, *good[8:]]), out, FIVE, workers=0)
    summary = write_shards(good, out, FIVE, workers=0)
    assert (summary.written, summary.kept, summary.counts["bad"]) == (1, 2, 0)
    assert contents(out) == contents(shards)  # bad_samples.jsonl is gone, too


def changed(record: Record, how: str, tmp_path: Path) -> Record:
    """A record that differs in one thing from that which was written."""
    first, *others = record.regions1
    if how == "image":
        path = tmp_path / "longer.jpg"
        path.write_bytes(Path(str(record.image1.path)).read_bytes() + b"\0")
        return replace(record, image1=replace(record.image1, path=path))
    if how == "a region less":
        return replace(record, regions1=(first, *others)[:-1])
    new = {"caption": {"captions": ("another", *first.captions[1:])}, "mask": {"mask": [[0, 0, 9, 0, 9, 9]]}}[how]
    return replace(record, regions1=(replace(first, **new), *others))


@pytest.mark.parametrize("how", ["caption", "mask", "a region less", "image"])
def test_a_shard_whose_records_changed_is_written_again(
    how: str, source, shards: Path, contents, assert_same, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    records = Known(source())
    records[7] = changed(records[7], how, tmp_path)
    with caplog.at_level(logging.WARNING):
        summary = write_shards(records, shards, FIVE, workers=0)
    assert (summary.written, summary.kept, summary.finished) == (1, 2, True)
    assert caplog.messages == ["shard-000001.tar is written again: its records have changed"]
    write_shards(records, tmp_path / "fresh", FIVE, workers=0)
    assert contents(shards) == contents(tmp_path / "fresh")
    assert_same(ShardSource(shards), records)


def test_a_finished_shard_whose_record_is_lost_is_not_kept(source, shards: Path, tmp_path: Path):
    records = Known(source())
    records[7] = damage(records[7], "missing file", tmp_path)
    with pytest.raises(DataError, match="no such file"):
        write_shards(records, shards, FIVE, workers=0)
    summary = write_shards(records, shards, FIVE, workers=0, on_bad_sample="skip")
    assert (summary.written, summary.kept, summary.counts["bad"]) == (1, 2, 1)


def test_times_and_places_of_files_change_nothing(source, shards: Path, contents, tmp_path: Path):
    before, records = contents(shards), Known(source())
    for i, record in enumerate(records):
        path = tmp_path / f"{i}.jpg"
        shutil.copyfile(str(record.image1.path), path)  # a time of its own
        records[i] = replace(record, image1=replace(record.image1, path=path))
    assert write_shards(records, shards, FIVE, workers=0).kept == 3
    (shards / "shard-000001.json").unlink()
    write_shards(records, shards, FIVE, workers=0)
    assert contents(shards) == before


def test_shards_of_shards_are_kept_too(source, shards: Path, tmp_path: Path):
    write_shards(ShardSource(shards), tmp_path / "again", FIVE, workers=0)
    assert write_shards(ShardSource(shards, verify=False), tmp_path / "again", FIVE, workers=0).kept == 3


@pytest.mark.parametrize("harm", ["missing", "cut", "sidecar"])
def test_a_set_without_one_of_its_tars_is_not_complete(
    harm: str, source, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_shards(source(), tmp_path, FIVE, workers=0, job=1, jobs=2)
    tar = tmp_path / "shard-000001.tar"
    size = tar.stat().st_size
    if harm == "cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    else:
        (tar if harm == "missing" else tar.with_suffix(".json")).unlink()
    with caplog.at_level(logging.INFO):
        assert not write_shards(source(), tmp_path, FIVE, workers=0, job=0, jobs=2).finished
    what = {"missing": "tar is not there", "cut": f"tar has {size - 512} bytes instead of {size}"}
    what["sidecar"] = "json is not there"
    assert caplog.messages[-1] == (f"1 of 3 shards are still to come: shard-000001.{what[harm]} (job 1 of 2 writes it)")
    assert not (tmp_path / "index.json").exists()
    assert write_shards(source(), tmp_path, FIVE, workers=0, job=1, jobs=2).finished


def test_records_known_to_be_bad_stop_the_run_before_it_begins(scenes: Path, tmp_path: Path):
    from maskcap.data.sources import SA1BSource

    shutil.copytree(scenes / "sa1b", tmp_path / "sa1b")
    (lost, *_) = sorted((tmp_path / "sa1b").glob("*.jpg"))
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 of 6 records are bad; the first: {lost}.*on_bad_sample=skip"):
        write_shards(SA1BSource(tmp_path), tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()
    assert write_shards(SA1BSource(tmp_path), tmp_path / "out", workers=0, on_bad_sample="skip").counts["records"] == 5


def test_without_check_nothing_is_decoded(source, tmp_path: Path):
    record = damage(source()[0], "truncated image", tmp_path)
    write_shards([record], tmp_path / "out", ShardOptions(check=False), workers=0)
    with pytest.raises(DataError, match="truncated"):
        from maskcap.data.images import read_image

        read_image(ShardSource(tmp_path / "out")[0].image1)


def test_a_set_of_bad_records_only_cannot_be_read(source, tmp_path: Path):
    record = damage(source()[0], "no regions", tmp_path)
    write_shards([record], tmp_path / "out", workers=0, on_bad_sample="skip")
    with pytest.raises(ShardError, match="the shards hold no record"):
        ShardSource(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers=-1"),
        ({"job": 2, "jobs": 2}, "0 ≤ job < jobs"),
        ({"on_bad_sample": "ignore"}, 'choose "raise" or "skip"'),
    ],
)
def test_impossible_arguments(arguments: dict, message: str, source, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        write_shards(source(), tmp_path, **arguments)
    with pytest.raises(ConfigError):
        ShardOptions(quality=101)
    with pytest.raises(ConfigError):
        ShardOptions(groups_per_shard=0)
    with pytest.raises(DataError, match="no records"):
        write_shards([], tmp_path)


def test_a_mask_that_json_cannot_hold_is_an_error_without_check_too(image_ref, region, tmp_path: Path):
    record = Record("tiny/train/0", image_ref("a"), (replace(region(0), mask=[[1.0, float("nan")]]),))
    with pytest.raises(MaskDecodeError, match="tiny/train/0, region r0"):
        write_shards([record], tmp_path / "out", ShardOptions(check=False), workers=0)


def test_a_folder_that_cannot_be_made_is_named(source, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"out={tmp_path}/file/out: cannot be made"):
        write_shards(source(), tmp_path / "file" / "out", workers=0)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_is_named(source):
    with pytest.raises(ConfigError, match=r"out=/proc: cannot be written \(.+\)\. "):
        write_shards(source(), "/proc", workers=0)


def test_a_folder_that_is_removed_meanwhile(source, tmp_path: Path):
    class Remover(RecordSubset):
        def __getitem__(self, index):
            if index == 7:
                shutil.rmtree(tmp_path / "out")
            return super().__getitem__(index)

    with pytest.raises(ShardError, match=r"shard-000001\.tar: cannot be written \(No such file.*removed meanwhile"):
        write_shards(Remover(source(), range(15)), tmp_path / "out", FIVE, workers=0)
