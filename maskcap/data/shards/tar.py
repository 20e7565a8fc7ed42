"""Tar files by the byte: headers that depend on name and size alone, and headers read one by one.

The standard library's tarfile makes and parses the headers; its reader is not used, since it ends in silence at a
damaged header.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass

from maskcap.errors import ShardError

BLOCK = 512
END = bytes(2 * BLOCK)  # end of archive
MAX_SIZE = 8**11 - 1  # of a member in the USTAR format, 8 GiB


def make_header(name: str, size: int) -> bytes:
    """USTAR header of a plain file, 512 bytes: mode 644, no owner, no time. Raises ShardError beyond 8 GiB."""
    if size > MAX_SIZE:
        raise ShardError(f"{name}: {size} bytes do not fit a tar member (8 GiB). Split the video", "malformed record")
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(size: int) -> int:
    """Bytes of zeros that follow data of this size."""
    return -size % BLOCK


def padded(size: int) -> int:
    """Bytes that data of this size takes in a tar, without its header."""
    return size + padding(size)


@dataclass(frozen=True)
class Header:
    """One member's header. `kind` is the type flag: "0" for a file, "x" and "L" for notes about the next member."""

    name: str
    size: int
    kind: str


def parse_header(block: bytes) -> Header | str | None:
    """512 bytes of a tar: a header whose checksum is right, what is wrong with it, or None for a block of zeros."""
    if len(block) < BLOCK:
        return f"it ends {len(block)} bytes into a header"
    if not block.strip(b"\0"):
        return None
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"no tar header there ({error})"
    if not 0 <= entry.size < 2**63:
        return f"no tar header there (a size of {entry.size} bytes)"
    kind = entry.type.decode("latin-1").replace("\0", "0")
    return Header(entry.name, entry.size, kind)


def header_problem(block: bytes, name: str, size: int) -> str | None:
    """What is wrong with the header of a member that should be `name` with `size` bytes; None when it is right."""
    header = parse_header(block)
    if header is None:
        return "there are zeros where its header should be"
    if isinstance(header, str):
        return header
    # Longer names stand in a note before the header, which itself keeps the first 100 bytes.
    if header.name != name and not (len(header.name) >= 99 and name.startswith(header.name)):
        return f"the tar has {header.name!r} at that place"
    if header.size != size:
        return f"its header says {header.size} bytes, the index {size}"
    return None
