"""SA-1B's tars as they are published: where each image and annotation lies, found by reading headers alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from maskcap.data.shards.members import pread, read_url
from maskcap.data.shards.storage import is_url
from maskcap.data.shards.tar import BLOCK, END, Header, padded, parse_header

_MEMBER = re.compile(r"(?P<folder>(?:.*/)?)(?P<stem>sa_[^/\n]+)\.(?P<kind>jpg|json)")
_SIZE = re.compile(rb"\d{1,18}")  # bytes, in 63 bits
_NOTES = "xgLK"  # headers about the next member, or about all: pax and GNU
_WITHOUT_DATA = "123456"  # links, devices, folders
_RECORD = 20 * BLOCK  # tar rounds a file's size up to it, with zeros
_URL_BLOCK = 2**16  # bytes of a request: often a whole JSON and the header behind it
_SEARCH_BLOCK = 2**20

ReadAt = Callable[[int, int], bytes]  # (start, end) → those bytes, fewer at the end


@dataclass
class Slot:
    """One sample of a tar. `halves`: "jpg" and "json" → (offset, size) in bytes; `problem`: (reason, what is wrong)."""

    stem: str
    folder: str = ""
    halves: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


def scan_tar(shard: str, length: int) -> list[Slot]:
    """The samples of a tar of `length` bytes, in order, good and bad. Raises OSError when it cannot be read.

    Bad are: a JPEG without its JSON and the reverse, a name that is there twice, data that the file ends in, and, with
    the stem `(end)` or `(byte N)`, damage that hides nobody knows which samples: a cut, a header that is none, zeros in
    the middle. After these the scan goes on at the next intact header of a sample's.
    """
    slots: dict[str, Slot] = {}
    with _opened(shard) as read_at:
        for entry in _entries(read_at, length):
            if isinstance(entry, Slot):
                slots[entry.stem] = entry
            else:
                _place(entry, slots, length)
    for slot in slots.values():
        if slot.problem is None and len(slot.halves) == 1:
            lost = "json" if "jpg" in slot.halves else "jpg"
            slot.problem = ("missing member", f"the member {slot.folder}{slot.stem}.{lost} is missing")
    return list(slots.values())


@dataclass(frozen=True)
class _File:
    name: str
    offset: int
    size: int
    problem: str | None = None


def _place(file: _File, slots: dict[str, Slot], length: int) -> None:
    match = _MEMBER.fullmatch(file.name)
    if match is None:
        return
    slot = slots.setdefault(match["folder"] + match["stem"], Slot(match["stem"], match["folder"]))
    if match["kind"] in slot.halves:
        slot.problem = ("duplicate key", f"the member {file.name} is there twice. Keep one of them")
    slot.halves[match["kind"]] = (file.offset, file.size)
    if file.problem is not None:
        slot.problem = ("damaged shard", f"the member {file.name}: {file.problem}")
    lost = file.offset + file.size - length
    if lost > 0:
        slot.problem = ("truncated shard", f"the tar ends {lost} bytes before the end of the member {file.name}")


@contextmanager
def _opened(shard: str) -> Iterator[ReadAt]:
    if is_url(shard):
        yield _buffered(lambda start, end: read_url(shard, start, end))
        return
    descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield lambda start, end: pread(descriptor, start, end)
    finally:
        os.close(descriptor)


def _buffered(read: ReadAt) -> ReadAt:
    """Reads more than is asked for: a request costs far more than the bytes."""
    first, kept = 0, b""

    def read_at(start: int, end: int) -> bytes:
        """Bytes from `start` to `end`, read ahead in blocks."""
        nonlocal first, kept
        if not (first <= start and end <= first + len(kept)):
            first, kept = start, read(start, max(end, start + _URL_BLOCK))
        return kept[start - first : end - first]

    return read_at


def _entries(read_at: ReadAt, length: int) -> Iterator[_File | Slot]:
    """Plain files in order, and a bad Slot for each piece of damage."""
    place, notes = 0, _File("", 0, -1)
    while place < length:
        header = parse_header(read_at(place, min(place + BLOCK, length)))
        if header is None and length - place <= _RECORD + len(END) and not read_at(place, length).strip(b"\0"):
            return
        if not isinstance(header, Header):
            after = _next_sample(read_at, place + BLOCK, length)
            yield _damage(place, after, length, header)
            if after is None:
                return
            place, notes = after, _File("", 0, -1)
            continue
        size, data = header.size, place + BLOCK
        if header.kind in _NOTES:
            notes = _noted(notes, header, read_at(data, min(data + size, length)))
        else:
            size = 0 if header.kind in _WITHOUT_DATA else (size if notes.size < 0 else notes.size)
            if header.kind == "0":
                yield _File(notes.name or header.name, data, size, notes.problem)
            notes = _File("", 0, -1)
        place = data + padded(size)
    message = "the tar has no end mark: it is cut off, and nobody knows how much was to follow"
    yield Slot("(end)", problem=("truncated shard", message))


def _damage(place: int, after: int | None, length: int, found: str | None) -> Slot:
    what = found or "zeros, like an end mark,"
    where = f"at byte {place} of {length}: {what}"
    if after is not None:
        message = f"{where}; samples before byte {after}, where the next intact one begins, may be lost"
        return Slot(f"(byte {place})", problem=("damaged shard", message))
    reason = "truncated shard" if length - place < BLOCK else "damaged shard"
    return Slot("(end)", problem=(reason, f"{where}, and no intact sample behind it"))


def _next_sample(read_at: ReadAt, place: int, length: int) -> int | None:
    """Where the next intact header of an SA-1B file stands, at a multiple of a block; None when there is none."""
    for start in range(place, length, _SEARCH_BLOCK):
        data = read_at(start, min(start + _SEARCH_BLOCK, length))
        found = data.find(b"ustar")
        while found >= 0:
            block = found - 257
            if block >= 0 and block % BLOCK == 0:
                header = parse_header(data[block : block + BLOCK])
                if isinstance(header, Header) and _MEMBER.fullmatch(header.name):
                    return start + block
            found = data.find(b"ustar", found + 1)
    return None


def _noted(notes: _File, header: Header, data: bytes) -> _File:
    """Name and size that a GNU or pax note gives the next member; size -1: its header's. A size that is none is a
    problem of that member."""
    if header.kind == "L":
        return replace(notes, name=data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
    if header.kind == "x":
        found = dict(re.findall(rb"\d+ ([^=\n]+)=([^\n]*)\n", data))
        name = found.get(b"path", b"").decode("utf-8", "surrogateescape")
        notes = replace(notes, name=name or notes.name)
        size = found.get(b"size")
        if size is None:
            return notes
        if _SIZE.fullmatch(size) is None:
            return replace(notes, problem=f"the note before it says that its size is {ascii(size.decode('latin-1'))}")
        return replace(notes, size=int(size))
    return notes
