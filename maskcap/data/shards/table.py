"""The index of a whole set of shards as numpy arrays: about 100 bytes an image, shared by forked workers.

A Python object for each record would cost ten times that, and every worker that touches one gets a copy of its page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

from maskcap.data.shards.index import AGAIN, SetIndex, Sidecar, sidecar_name
from maskcap.data.shards.members import FETCH
from maskcap.data.shards.storage import join, read_files, sizes_of
from maskcap.data.shards.texts import Texts
from maskcap.errors import DataError, ShardError


@dataclass(frozen=True)
class ShardRows:
    """Groups (G) and records (N): of one shard, or of a whole set.

    number:               int32 (G,): the group's number, which names its members.
    offset, size, end:    int64 (G,), int32 (G,), int64 (G,): the group's JSON, and where its last file ends, in bytes.
    sha256:               uint8 (G, 32), of the JSON.
    first:                int64 (G,): the group's first record.
    group:                int32 (N,): the record's group; -1: unknown, its shard's index cannot be read.
    regions, characters:  int32 (N,).
    keys:                 of the records.
    """

    number: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    end: np.ndarray
    sha256: np.ndarray
    first: np.ndarray
    group: np.ndarray
    regions: np.ndarray
    characters: np.ndarray
    keys: Texts


@dataclass(frozen=True)
class Table(ShardRows):
    """All groups and records of a set, shard by shard.

    shards, blocks: place and number of records of each shard.
    shard:          int32 (G,): the group's shard.
    bad:            record → what is wrong with its shard.
    """

    shards: tuple[str, ...]
    blocks: tuple[int, ...]
    shard: np.ndarray
    bad: dict[int, DataError]


def read_table(folder: str, index: SetIndex) -> Table:
    """Read every sidecar and compare every tar's size with the index; reads no tar.

    A missing tar, one of another size, and a missing or damaged sidecar make that shard's records bad, no error.
    """
    listed, found = index.shards, sizes_of(folder, index.shards.name)
    places = tuple(join(folder, name) for name in listed.name)
    sidecars = read_files([join(folder, sidecar_name(name)) for name in listed.name])
    rows: list[ShardRows] = []
    bad: dict[int, DataError] = {}
    groups = records = 0
    for number, data in enumerate(sidecars):
        count = listed.records[number]
        part = _read_rows(data, index, number, folder)
        problem = part if isinstance(part, ShardError) else None
        if isinstance(part, ShardError):
            part = _unknown_rows(places[number], count)
        problem = problem or _size_problem(places[number], found.get(listed.name[number]), listed.size[number])
        if problem is not None:
            bad.update(dict.fromkeys(range(records, records + count), problem))
        rows.append(_shifted(part, groups, records))
        groups, records = groups + len(part.number), records + count
    columns = {field.name: [getattr(part, field.name) for part in rows] for field in fields(ShardRows)}
    keys = Texts.joined(columns.pop("keys"))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    shard = np.repeat(np.arange(len(rows), dtype=np.int32), [len(part.number) for part in rows])
    return Table(**arrays, keys=keys, shards=places, blocks=tuple(listed.records), shard=shard, bad=bad)


def _read_rows(data: bytes | OSError, index: SetIndex, number: int, folder: str) -> ShardRows | ShardError:
    where = join(folder, sidecar_name(index.shards.name[number]))
    if isinstance(data, FileNotFoundError):
        return ShardError(f"{where}: the shard's index is missing. {AGAIN}.", "missing shard")
    if isinstance(data, OSError):
        return ShardError(f"{where}: cannot be read ({data.strerror or data}). {AGAIN}.")
    if hashlib.sha256(data).hexdigest() != index.shards.sidecar[number]:
        return ShardError(f"{where}: its sha256 is not the one in index.json. {AGAIN}.", "checksum mismatch")
    try:
        read = Sidecar.from_json(data, where)
    except ShardError as error:
        return error
    groups, records = read.groups, read.records
    group = np.array(records.group, np.int32)
    return ShardRows(
        number=np.array(groups.number, np.int32),
        offset=np.array(groups.offset, np.int64),
        size=np.array(groups.size, np.int32),
        end=np.array(groups.end, np.int64),
        sha256=np.frombuffer(bytes.fromhex("".join(groups.sha256)), np.uint8).reshape(-1, 32),
        first=np.searchsorted(group, np.arange(len(groups.number))),
        group=group,
        regions=np.array(records.regions, np.int32),
        characters=np.array(records.characters, np.int32),
        keys=Texts(records.key),
    )


def _unknown_rows(place: str, count: int) -> ShardRows:
    """Records that nothing is known of but their number."""
    none = np.zeros(0, np.int64)
    zeros = np.zeros(count, np.int32)
    keys = Texts([f"{place}/(record {number})" for number in range(count)])
    sha256 = np.zeros((0, 32), np.uint8)
    narrow = none.astype(np.int32)
    return ShardRows(narrow, none, narrow, none, sha256, none, zeros - 1, zeros, zeros, keys)


def _shifted(part: ShardRows, groups: int, records: int) -> ShardRows:
    """With the numbers of groups and records that they have in the whole."""
    known = {field.name: getattr(part, field.name) for field in fields(ShardRows)}
    group = np.where(part.group < 0, -1, part.group + groups).astype(np.int32)
    return ShardRows(**{**known, "first": part.first + records, "group": group})


def _size_problem(place: str, found: int | OSError | None, expected: int) -> ShardError | None:
    if isinstance(found, OSError):
        return ShardError(f"{place}: cannot be read ({found.strerror or found}). {FETCH}.")
    if found is None:
        return ShardError(f"{place}: the shard is missing. {FETCH}.", "missing shard")
    if found < expected:
        message = f"{place}: the shard is cut off: {found} bytes instead of {expected}. {FETCH}."
        return ShardError(message, "truncated shard")
    if found > expected:
        return ShardError(f"{place}: the shard has {found} bytes instead of {expected}. Is it another's? {FETCH}.")
    return None
