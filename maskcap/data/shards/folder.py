"""Records of a set that `maskcap shard` wrote: any record by one read of its group, checked."""

from __future__ import annotations

from collections.abc import Hashable

from maskcap.data.record import Member, Record
from maskcap.data.shards.index import INDEX, PLAN, SetIndex
from maskcap.data.shards.members import FETCH, process_state, read_ahead, read_member
from maskcap.data.shards.records import Group, decode_group
from maskcap.data.shards.storage import exists, join, read_file
from maskcap.data.shards.table import Table, read_table
from maskcap.data.shards.tar import BLOCK
from maskcap.errors import ShardError

# Bytes of a group that are read at once. Of more, its JSON says which files a sample needs: a video's frames are many
# and few are drawn. One large file costs no more in two reads: 16 MiB of mp4 with its JSON, sha256 compared, took
# 15.5 ms in two and 17.6 ms in one (local, in the page cache; without sha256 6.5 and 6.4 ms; from disk both 46 ms).
_SPAN = 2**22


def is_shard_set(folder: str) -> bool:
    """Whether a folder holds a set that `maskcap shard` wrote, finished or not. Raises ShardError: it does not tell."""
    try:
        return exists(join(folder, INDEX)) or exists(join(folder, PLAN))
    except OSError as error:
        raise ShardError(f"{folder}: cannot be read ({error.strerror or error}). {FETCH}.") from error


class ShardFolder:
    """A set in a folder (a place, see storage.py). Raises ShardError when it is not finished or its index is damaged.

    verify: whether each member's sha256 is compared whenever it is read; its header is in any case.
    """

    def __init__(self, folder: str, *, verify: bool) -> None:
        place = join(folder, INDEX)
        try:
            self.index = SetIndex.from_json(read_file(place), place)
        except FileNotFoundError:
            raise ShardError(
                f"{folder}: there is no {INDEX}: the set is not finished. Run the same `maskcap shard` again (every "
                "job of an array): what is there is kept",
                "missing shard",
            ) from None
        except OSError as error:
            raise ShardError(f"{place}: cannot be read ({error.strerror or error}). {FETCH}.") from error
        self.what = folder
        self.name, self.skipped = self.index.source, dict(self.index.skipped)
        self.has_captions, self.has_phrases = self.index.has_captions, self.index.has_phrases
        self.has_turns = self.index.has_turns
        self.table: Table = read_table(folder, self.index)
        self.shards, self.blocks, self.bad = self.table.shards, self.table.blocks, self.table.bad
        self._verify = verify

    def read(self, index: int) -> Record:
        """Record number `index`. Raises ShardError that names its key."""
        try:
            return self._read(index)
        except ShardError as error:
            raise ShardError(f"{self.table.keys[index]}: {error}", error.reason) from error

    def _read(self, index: int) -> Record:
        table = self.table
        number = int(table.group[index])
        member = self._member(number)
        group: Group | None = process_state().parsed(member)
        if group is None:
            start, end = member.offset - BLOCK, int(table.end[number])
            if end - start <= _SPAN:
                read_ahead(member.shard, start, end)
            group = decode_group(read_member(member), member)
            if len(group) > 1:
                process_state().keep(member, group, member.size)
        record = group.record(index - int(table.first[number]))
        if record.key != table.keys[index]:
            raise ShardError(f"{member}: it holds {record.key!r}, the index has {table.keys[index]!r} there. {FETCH}.")
        return record

    def image_of(self, index: int) -> Hashable:
        """The number of the record's group; of a record in a lost shard, its own."""
        group = int(self.table.group[index])
        return group if group >= 0 else ("lost", index)

    def key_of(self, index: int) -> str:
        """The record's key."""
        return self.table.keys[index]

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all captions)."""
        return int(self.table.regions[index]), int(self.table.characters[index])

    def annotation_of(self, index: int) -> str:
        """Where the record's annotation is, for messages."""
        group = int(self.table.group[index])
        return str(self._member(group)) if group >= 0 else self.table.keys[index]

    def _member(self, group: int) -> Member:
        table = self.table
        name = f"{int(table.number[group]):09d}.json"
        sha256 = table.sha256[group].tobytes() if self._verify else None
        shard = table.shards[int(table.shard[group])]
        return Member(shard, name, int(table.offset[group]), int(table.size[group]), sha256)
