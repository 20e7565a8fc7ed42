"""Bytes out of tars: one read for what lies together, checked against header, size and sha256 before anyone sees them.

A member is known by its shard and its name, so that nothing of one shard can pass for another's.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from maskcap.data.record import Member
from maskcap.data.shards.storage import client_errors, filesystem, is_url
from maskcap.data.shards.tar import BLOCK, header_problem
from maskcap.errors import ShardError

FETCH = "Fetch the shard again, or run the same `maskcap shard` again"
_OPEN_FILES = 128
_PARSED_BYTES = 2**26


def read_member(member: Member, where: str = "") -> bytes:
    """The member's data. Raises ShardError naming shard and member, what was expected and what was found.

    where: what messages begin with instead, where the sample is known: its key, shard and member.
    Checked: the tar has that many bytes, the header before them has this name and size and is intact, and the data has
    the member's sha256 where it is known.
    """
    start, end = member.offset - BLOCK, member.offset + member.size
    where = where or str(member)
    found = process_state().read(member.shard, start, end, where)
    if len(found) < end - start:
        raise ShardError(
            f"{where}: expected at bytes {start} to {end}, but the tar ends before: {len(found)} of {end - start} "
            f"bytes are there. {FETCH}.",
            "truncated shard",
        )
    problem = header_problem(found[:BLOCK], member.name, member.size)
    if problem is not None:
        raise ShardError(
            f"{where}: expected at byte {start} of the tar, but {problem}. Is it another shard's file? {FETCH}."
        )
    data = found[BLOCK:]
    if member.sha256 is not None and hashlib.sha256(data).digest() != member.sha256:
        raise ShardError(
            f"{where}: its {member.size} bytes do not have the sha256 in the index: they were changed after they were "
            f"written. {FETCH}.",
            "checksum mismatch",
        )
    return data


def read_ahead(shard: str, start: int, end: int) -> None:
    """Read bytes of a tar in one go, for the next `read_member`s in this process. Errors are left to those."""
    process_state().read_ahead(shard, start, end)


class ProcessState:
    """What a process keeps open: descriptors of local tars, the last bytes read ahead, the last parsed annotations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._ahead: tuple[str, int, bytes] = ("", 0, b"")
        self._parsed: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()

    def read(self, shard: str, start: int, end: int, where: str) -> bytes:
        """Bytes `start` to `end` of a tar, fewer where it ends. Raises ShardError when it cannot be read."""
        ahead, first, kept = self._ahead
        if ahead == shard and first <= start and end <= first + len(kept):
            return kept[start - first : end - first]
        try:
            found = self._read(shard, start, end)
        except FileNotFoundError:
            raise ShardError(f"{where}: there is no file {shard}. {FETCH}.", "missing shard") from None
        except OSError as error:
            raise ShardError(f"{where}: {shard} cannot be read ({error.strerror or error}). {FETCH}.") from error
        if len(found) > end - start:
            raise ShardError(
                f"{where}: {end - start} bytes of {shard} were asked for, and {len(found)} came: its server does not "
                "serve parts of files. Copy the shards, or use another server."
            )
        return found

    def read_ahead(self, shard: str, start: int, end: int) -> None:
        """See the function of that name."""
        self._ahead = ("", 0, b"")
        with suppress(OSError):
            found = self._read(shard, start, end)
            if len(found) <= end - start:
                self._ahead = (shard, start, found)

    def parsed(self, key: Hashable) -> Any:
        """What was kept under the key, or None."""
        with self._lock:
            if key not in self._parsed:
                return None
            self._parsed.move_to_end(key)
            return self._parsed[key][1]

    def keep(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a parsed annotation of `size` bytes; the oldest go beyond 64 MiB in all."""
        with self._lock:
            self._parsed[key] = (size, value)
            while len(self._parsed) > 1 and sum(size for size, _ in self._parsed.values()) > _PARSED_BYTES:
                self._parsed.popitem(last=False)

    def forget(self) -> None:
        """Close every file and drop what was kept: the files on disk may be others now."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])
            self._ahead = ("", 0, b"")
            self._parsed.clear()

    def _read(self, shard: str, start: int, end: int) -> bytes:
        if is_url(shard):
            return read_url(shard, start, end)
        with self._lock:  # a descriptor must not be closed, and its number given to another file, under a read
            return pread(self._descriptor(shard), start, end)

    def _descriptor(self, shard: str) -> int:
        if shard not in self._open:
            while len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(shard)
        return self._open[shard]


def process_state() -> ProcessState:
    """This process's own; a forked worker starts with an empty one."""
    return _state_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _state_of(pid: int) -> ProcessState:
    return ProcessState()


def pread(descriptor: int, start: int, end: int) -> bytes:
    """As many of a file's bytes as there are: one call may return fewer, at a file's end or after 2 GiB."""
    parts = []
    while start < end:
        try:
            part = os.pread(descriptor, end - start, start)
        except InterruptedError:
            continue
        if not part:
            break
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_url(shard: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a URL by one range request. Raises OSError."""
    system, path = filesystem(shard)
    with client_errors():
        return system.cat_file(path, start=start, end=end)
