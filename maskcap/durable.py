"""Files that survive a crash: synced, renamed into place; whose unfinished ones may be removed; and full disks."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def host_tag() -> str:
    """What tells machines apart, and containers, whose process ids are their own; 8 hex digits."""
    name = socket.gethostname()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool:
    """Whether a process of this machine (and container) runs, another user's too."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def move_into_place(temporary: str, place: str) -> None:
    """Rename a synced file within its folder, all or nothing; the old one is gone. Raises OSError."""
    os.replace(temporary, place)
    sync_folder(os.path.dirname(place))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a small file that takes `path`'s place at the end, synced, all or nothing: an error leaves the old
    one, and nothing beside it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a small text in the way of `replacing`. Raises OSError."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sync_folder(folder: str) -> None:
    """Names that were made or removed in it survive a crash of the machine. Raises OSError."""
    opened = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def where_there_is_room(what: object) -> Iterator[None]:
    """A full disk does not end a run for want of a record: an error in the log names `what` was not written.

    Other errors pass through.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        log.error("%s could not be written: %s. The run goes on without it: make room", what, error.strerror)
