"""Tar shards as a source of records: a set that `maskcap shard` wrote, or SA-1B's tars as they are published."""

from __future__ import annotations

import glob
import logging
from collections.abc import Hashable, Sequence
from pathlib import Path

from maskcap.data.record import Record
from maskcap.data.shards.folder import ShardFolder, is_shard_set
from maskcap.data.shards.members import process_state
from maskcap.data.shards.raw import RawTars, find_tars
from maskcap.data.shards.storage import place_of
from maskcap.data.sources.lenient import LenientSource
from maskcap.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)


class ShardSource(LenientSource):
    """One record an image (video, video frame, pair of frames), read from tars by offset; any order costs the same.

    shards: the folder (or fsspec URL) that `maskcap shard` wrote; or tars of SA-1B as published, with members
        `sa_N.jpg` and `sa_N.json`: a folder, a pattern (`/data/sa_*.tar`), a list of tars, or URLs of these.
    verify: whether each member's sha256 is compared whenever it is read (about 1 ms a megabyte). Published tars have
        none: there, a change that leaves JPEG and JSON readable cannot be seen; in shards it can.

    `name`, keys, regions, turns and captions are those of the source that was written: samples are the same. Records
    stand shard by shard (`blocks`), those of one image or video together (`image_of`).

    Building reads the index alone (of published tars the headers, once; later starts find them in the cache folder).
    A missing, truncated or replaced shard, a damaged index, a member without its partner: each is a bad record, or as
    many as the shard has (see `LenientSource`). Building raises ShardError when there is no finished set, when nothing
    is readable, and ConfigError for places that are not one set. Reading raises ShardError for bytes that are not
    those that the index describes.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path], *, verify: bool = True) -> None:
        process_state().forget()
        self._reader = _open(shards, verify)
        self.name, self.skipped = self._reader.name, self._reader.skipped
        self.blocks: Sequence[int] = self._reader.blocks
        self.bad = self._reader.bad
        self._length = sum(self.blocks)
        if self._length == 0:
            raise ShardError(f"{self._reader.what}: the shards hold no record. Was everything left out as bad?")
        self._settle(self._reader.what)
        logger.info("%s: %d records in %d shards", self._reader.what, len(self), len(self.blocks))

    @property
    def has_captions(self) -> bool:
        """Whether any record has a caption."""
        return self._reader.has_captions

    @property
    def has_phrases(self) -> bool:
        """Whether any record has a caption that singles its region out."""
        return self._reader.has_phrases

    @property
    def has_turns(self) -> bool:
        """Whether any record has a conversation."""
        return self._reader.has_turns

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        return self._reader.key_of(index)

    def image_of(self, index: int) -> Hashable:
        """What tells the images (videos) of records apart; reads nothing."""
        return self._reader.image_of(index)

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all texts); None where the index does not say."""
        return None if index in self.bad else self._reader.text_size_of(index)

    def annotation_of(self, index: int) -> str:
        """Shard and member, for messages."""
        return self._reader.annotation_of(index)

    def __len__(self) -> int:
        return self._length

    def _read(self, index: int) -> Record:
        return self._reader.read(index)


def _open(shards: str | Path | Sequence[str | Path], verify: bool) -> ShardFolder | RawTars:
    places = [place_of(each) for each in ([shards] if isinstance(shards, (str, Path)) else shards)]
    if not places:
        raise ConfigError("shards: the list is empty; name a folder of shards, or tars")
    folders = [place for place in places if not (place.endswith(".tar") or glob.has_magic(place))]
    sets = [place for place in folders if is_shard_set(place)]
    if not sets:
        return RawTars(find_tars(places))
    if len(places) > 1:
        raise ConfigError(
            f"shards: {sets[0]} is a set of its own; give each set a source of its own (data.train.a, data.train.b, …)"
        )
    return ShardFolder(sets[0], verify=verify)
