"""SA-1B's tars as they are published (`sa_N.jpg`, `sa_N.json`) as records, without conversion."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Hashable, Sequence

import numpy as np

from maskcap.data.record import ImageRef, Member, Record
from maskcap.data.shards.folder import is_shard_set
from maskcap.data.shards.index import INDEX
from maskcap.data.shards.members import FETCH, read_ahead, read_member
from maskcap.data.shards.scan_cache import Tar, TarScan, scan_all
from maskcap.data.shards.storage import client_errors, describe_url, filesystem, is_url, join, list_files
from maskcap.data.shards.tar import BLOCK
from maskcap.data.shards.texts import Texts, repeats
from maskcap.data.sources.sa1b_annotation import SA1BFilters, make_regions, read_annotation
from maskcap.errors import DataError, ShardError

_NO_FILTERS = SA1BFilters()
_GAP = 2**16  # bytes between a sample's halves that are worth reading along


def find_tars(places: Sequence[str]) -> list[Tar]:
    """The tars that places name: tars, folders of them (sub-folders are not searched), patterns with `*`.

    Raises ShardError when a folder or a pattern has none; a tar that is named and is not there is a Tar without size.
    """
    found: dict[str, Tar] = {}
    for place in places:
        for tar in _tars_at(place):
            found.setdefault(tar.place, tar)
    return list(found.values())


def _tars_at(place: str) -> list[Tar]:
    if place.endswith(".tar") and not glob.has_magic(place):
        return [_describe(place)]
    try:
        if glob.has_magic(place):
            tars = [_describe(name) for name in _matches(place)]
            what = "no file fits this pattern"
        else:
            tars = [_describe(join(place, name)) for name in list_files(place) if name.endswith(".tar")]
            what = "no such folder, or no tars in it (index.json of `maskcap shard`, or *.tar)"
    except OSError as error:
        raise ShardError(f"{place}: its files cannot be listed ({error.strerror or error}). {FETCH}.") from error
    if not tars:
        raise ShardError(f"{place}: {what}. Set the shards' folder.", "missing shard")
    return tars


def _matches(pattern: str) -> list[str]:
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    system, path = filesystem(pattern)
    with client_errors():
        return sorted(system.unstrip_protocol(name) for name in system.glob(path))


def _describe(place: str) -> Tar:
    try:
        if not is_url(place):
            facts = os.stat(place)
            return Tar(place, facts.st_size, str(facts.st_mtime_ns))
        return Tar(place, *describe_url(place))
    except FileNotFoundError:
        return Tar(place, None)
    except OSError as error:
        raise ShardError(f"{place}: cannot be read ({error.strerror or error}). {FETCH}.") from error


def _what_to_do(folder: str) -> str:
    if is_shard_set(folder):
        return "name the folder"
    return f"{INDEX} and the shard-*.json beside them are gone: fetch them, or run the same `maskcap shard` again"


class RawTars:
    """Samples of tars, tar by tar, in the order of their members. Keys are `"sa1b/train/<N>"`, or the shard's place and
    the kind of damage; an image that is in several tars is a record of the first and a bad one of the others."""

    name, has_captions, has_phrases, has_turns = "sa1b", False, False, False

    def __init__(self, tars: Sequence[Tar]) -> None:
        scans = scan_all(tars)
        self.what = tars[0].place if len(tars) == 1 else f"{os.path.dirname(tars[0].place)} ({len(tars)} tars)"
        self.skipped: dict[str, int] = {}
        self.shards = tuple(tar.place for tar in tars)
        self.blocks = tuple(len(scan.stems) for scan in scans)
        self._starts = np.cumsum((0, *self.blocks))
        self._stems = Texts.joined([scan.stems for scan in scans])
        self._halves = np.concatenate([scan.halves for scan in scans])
        firsts = np.cumsum([0, *(len(scan.folders) for scan in scans[:-1])])
        self._folders = [folder for scan in scans for folder in scan.folders]
        self._folder = np.concatenate([scan.folder + first for scan, first in zip(scans, firsts, strict=True)])
        self.bad = self._find_bad(scans)

    def _find_bad(self, scans: Sequence[TarScan]) -> dict[int, DataError]:
        bad: dict[int, DataError] = {}
        for scan, shard, start in zip(scans, self.shards, self._starts, strict=False):
            for number, (reason, message) in scan.problems.items():
                at = shard if scan.stems[number].startswith("(") else f"{shard}/{scan.stems[number]}"
                bad[int(start) + number] = ShardError(f"{at}: {message}. Fetch the tar again.", reason)
        for index, first in repeats(len(self._stems), self.key_of).items():
            message = f"{self.annotation_of(index)}: it is in use from {self.annotation_of(first)} already. Keep one."
            bad.setdefault(index, ShardError(message, "duplicate key"))
        if len(bad) == len(self._stems) and all(scan.halves.size == 0 or scan.halves.max() < 0 for scan in scans):
            first = f" ({next(iter(bad.values()))})" if bad else ""
            raise ShardError(
                f"{self.what}: no member sa_N.jpg or sa_N.json{first}. Published tars of SA-1B are read as they are; "
                f"if `maskcap shard` wrote these, {_what_to_do(os.path.dirname(self.shards[0]))}.",
                "missing member",
            )
        return dict(sorted(bad.items()))

    def read(self, index: int) -> Record:
        """Record number `index`. Raises DataError."""
        image, annotation = self._member(index, "jpg"), self._member(index, "json")
        first, second = sorted((image, annotation), key=lambda member: member.offset)
        if second.offset - (first.offset + first.size) <= _GAP:
            read_ahead(image.shard, first.offset - BLOCK, second.offset + second.size)
        try:
            content = json.loads(read_member(annotation))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{annotation}: not valid JSON ({error}). {FETCH}.", "unreadable annotation") from error
        read = read_annotation(content, annotation)
        stem = self._stems[index]
        if read.name is not None and os.path.splitext(read.name)[0] != stem:
            raise ShardError(f"{annotation}: it is the annotation of {read.name}, by its 'file_name'. {FETCH}.")
        regions = make_regions(read.annotations, _NO_FILTERS, annotation)
        return Record(self.key_of(index), ImageRef(image, read.height, read.width), regions)

    def key_of(self, index: int) -> str:
        """The record's key."""
        stem = self._stems[index]
        return f"{self._shard(index)}/{stem}" if stem.startswith("(") else f"sa1b/train/{stem.removeprefix('sa_')}"

    def image_of(self, index: int) -> Hashable:
        """Its own number: every record is of another image."""
        return index

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """Unknown: how many regions there are stands in the JSON."""
        return None

    def annotation_of(self, index: int) -> str:
        """Shard and member, for messages."""
        stem = self._stems[index]
        return self.key_of(index) if stem.startswith("(") else f"{self._shard(index)}/{stem}.json"

    def _shard(self, index: int) -> str:
        return self.shards[int(np.searchsorted(self._starts, index, side="right")) - 1]

    def _member(self, index: int, kind: str) -> Member:
        offset, size = self._halves[index, :2] if kind == "jpg" else self._halves[index, 2:]
        name = f"{self._folders[self._folder[index]]}{self._stems[index]}.{kind}"
        return Member(self._shard(index), name, int(offset), int(size))
