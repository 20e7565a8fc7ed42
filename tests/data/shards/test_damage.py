"""Damaged sets: every piece of damage is named, and nothing wrong is ever yielded."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from maskcap.data.record import Member, Record
from maskcap.data.shards import ShardSource
from maskcap.data.shards.members import process_state, read_member
from maskcap.errors import DataError, ShardError

from .conftest import cut, flip, swap


@pytest.fixture
def outcomes(read_all, source) -> Callable[[Sequence[Record]], dict[int, ShardError]]:
    """outcomes(there): the errors of those samples that do not come."""

    def read(there: Sequence[Record]) -> dict[int, ShardError]:
        good, errors = read_all(there, source())
        assert all(isinstance(error, ShardError) for error in errors.values()), errors
        assert len(good) + len(errors) == 15
        return errors

    return read


SECOND = [5, 6, 7, 8, 9]  # the records of shard 1


@pytest.mark.parametrize(
    ("harm", "bad", "reason", "message"),
    [
        (lambda d: cut(d / "shard-000001.tar", 700), SECOND, "truncated shard", "shard-000001.tar: the shard is cut"),
        (lambda d: cut(d / "shard-000001.tar", 100), SECOND, "truncated shard", "cut off: 100 bytes instead of"),
        (lambda d: cut(d / "shard-000001.tar", -1024), SECOND, "truncated shard", "cut off"),
        (
            lambda d: (d / "shard-000001.tar").unlink(),
            SECOND,
            "missing shard",
            "shard-000001.tar: the shard is missing",
        ),
        (lambda d: (d / "shard-000001.json").unlink(), SECOND, "missing shard", "shard-000001.json: the shard's index"),
        (
            lambda d: flip(d / "shard-000001.json", 99),
            SECOND,
            "checksum mismatch",
            "sha256 is not the one in index.json",
        ),
        (
            lambda d: swap(d / "shard-000001.json", d / "shard-000002.json"),
            [*SECOND, 10, 11, 12, 13, 14],
            "checksum mismatch",
            "shard-000001.json: its sha256 is not",
        ),
    ],
    ids=["body", "header", "end", "missing", "no index", "index flipped", "indices swapped"],
)
def test_damage_that_shows_at_the_start(
    harm, bad: list[int], reason: str, message: str, shards: Path, outcomes, caplog: pytest.LogCaptureFixture
):
    harm(shards)
    there = ShardSource(shards)
    assert sorted(there.bad) == bad and {error.reason for error in there.bad.values()} == {reason}
    assert message in str(there.bad[5])
    assert outcomes(there).keys() == set(bad)
    assert f"{len(bad)} of 15 records are bad" in caplog.text
    assert all(there.key_of(i) for i in bad) and len({there.image_of(i) for i in range(15)}) == 15


def test_longer_shards_are_bad(shards: Path, outcomes):
    with open(shards / "shard-000001.tar", "ab") as file:
        file.write(bytes(512))
    there = ShardSource(shards)
    assert {error.reason for error in there.bad.values()} == {"damaged shard"} and sorted(outcomes(there)) == SECOND


@pytest.mark.parametrize("where", ["annotation", "image", "annotation's header", "image's header"])
def test_a_flipped_bit_is_found_when_it_is_read(where: str, shards: Path, outcomes, source):
    member = ShardSource(shards)[7].image1.path
    assert isinstance(member, Member)
    with tarfile.open(member.shard) as tar:
        json = tar.getmember("000000007.json")
    annotation = Member(member.shard, json.name, json.offset_data, json.size)
    chosen = member if where.startswith("image") else annotation
    flip(Path(member.shard), chosen.offset + (chosen.size // 2 if "header" not in where else -505))
    there = ShardSource(shards)
    assert there.bad == {}
    errors = outcomes(there)
    assert list(errors) == [7]
    assert source()[7].key in str(errors[7])
    assert errors[7].reason == ("damaged shard" if "header" in where else "checksum mismatch")
    assert chosen.shard in str(errors[7]) and chosen.name in str(errors[7])


def test_every_bit_of_a_member_counts(shards: Path):
    member = ShardSource(shards)[7].image1.path
    assert isinstance(member, Member)
    path, whole = Path(member.shard), read_member(member)
    for place in range(member.offset, member.offset + member.size, 97):
        flip(path, place)
        process_state().forget()
        with pytest.raises(ShardError, match="they were changed"):
            read_member(member)
        flip(path, place)
    process_state().forget()
    assert read_member(member) == whole


def test_swapped_shards_of_one_size(shards: Path, outcomes):
    tars = [shards / f"shard-00000{n}.tar" for n in (0, 1)]
    longest = max(path.stat().st_size for path in tars)
    swap(*tars)
    assert {error.reason for error in outcomes(ShardSource(shards)).values()} <= {"truncated shard", "damaged shard"}
    for path in tars:
        path.write_bytes(path.read_bytes().ljust(longest, b"\0"))
    there = ShardSource(shards, verify=False)
    there.bad.clear()  # as if both had always been of this size
    errors = outcomes(there)
    assert sorted(errors) == list(range(10)) and {error.reason for error in errors.values()} == {"damaged shard"}
    assert "the tar has '000000005.json' at that place" in str(errors[0])


def test_damage_while_it_runs(shards: Path, outcomes):
    there = ShardSource(shards)
    cut(shards / "shard-000001.tar", 700)
    errors = outcomes(there)
    assert sorted(errors) == SECOND and {error.reason for error in errors.values()} == {"truncated shard"}
    assert "but the tar ends before: 0 of" in str(errors[9])

    process_state().forget()
    (shards / "shard-000001.tar").unlink()
    errors = outcomes(there)
    assert sorted(errors) == SECOND and {error.reason for error in errors.values()} == {"missing shard"}


def test_a_member_is_of_its_shard_and_no_other(shards: Path):
    member = ShardSource(shards)[7].image1.path
    assert isinstance(member, Member)
    other = Member(str(shards / "shard-000000.tar"), member.name, member.offset, member.size, member.sha256)
    with pytest.raises(ShardError, match=r"shard-000000\.tar/000000007\.jpg: expected at byte .* of the tar, but"):
        read_member(other)


def test_a_folder_without_any_index_says_so(shards: Path):
    for path in shards.glob("*.json"):
        path.unlink()
    for given in (shards, shards / "shard-000000.tar"):
        with pytest.raises(ShardError, match=r"index\.json and the shard-\*\.json beside them are gone") as error:
            ShardSource(given)
        assert "name the folder" not in str(error.value)


def test_tars_of_a_set_name_the_folder(shards: Path):
    with pytest.raises(ShardError, match=r"name the folder\."):
        ShardSource(shards / "shard-000000.tar")


def test_a_set_without_anything_readable_is_an_error(shards: Path):
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError, match="all 15 records are bad") as error:
        ShardSource(shards)
    assert error.value.reason == "missing shard"


@pytest.mark.parametrize("name", ["index.json", "index.json cut"])
def test_a_damaged_set_index_is_an_error(name: str, shards: Path):
    place = shards / "index.json"
    if name.endswith("cut"):
        cut(place, 500)
    else:
        place.write_bytes(place.read_bytes().replace(b'"size":[', b'"size":[1'))
    with pytest.raises(ShardError, match=r"index\.json: "):
        ShardSource(shards)
