"""Files that appear whole or not at all: written under a temporary name, then renamed, or uploaded to a URL.

A temporary name says whose it is, so that a run removes what a killed one left, and nothing of one that is at work.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from maskcap.data.shards.storage import client_errors, filesystem, is_url, join, list_files, read_file
from maskcap.durable import host_tag, is_alive, move_into_place

_DAY = 86400  # seconds


def temporary_path(place: str, run: int) -> str:
    """A new local path to write `place`'s bytes to before `put`: beside it, or for a URL in the temporary folder.

    `run` is the process id of the run that it belongs to, the same in all its workers (see `remove_stale`).
    """
    folder, _, name = place.rpartition("/")
    return join(_temporary_folder(folder), f".{_tag(folder)}{name}.{host_tag()}.{run}.{uuid.uuid4().hex}.tmp")


def remove_stale(folder: str) -> list[str]:
    """Remove the temporary files that killed runs left; their names.

    Killed is a run on this machine whose process is gone, and one elsewhere that has not written to its file for a day.
    """
    there, tag = _temporary_folder(folder), _tag(folder)
    pattern = re.compile(rf"\.{tag}[\w.-]+\.([0-9a-f]{{8}})\.(\d+)\.[0-9a-f]{{32}}\.tmp")
    stale = []
    for name in list_files(there):
        match, path = pattern.fullmatch(name), join(there, name)
        if match is None:
            continue
        with suppress(FileNotFoundError, PermissionError):  # moved to its place by now; another user's
            dead = (
                not is_alive(int(match[2])) if match[1] == host_tag() else time.time() - os.stat(path).st_mtime > _DAY
            )
            if dead:
                os.unlink(path)
                stale.append(name)
    return stale


def _temporary_folder(folder: str) -> str:
    return tempfile.gettempdir() if is_url(folder) else folder


def _tag(folder: str) -> str:
    """In the temporary folder, which it shares, a file's name says which URL it is for."""
    return f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}-" if is_url(folder) else ""


def put(temporary: str, place: str) -> None:
    """Move a finished local file to a place, all or nothing: synced, then renamed, or uploaded; the old one is gone."""
    if is_url(place):
        system, path = filesystem(place)
        with client_errors():
            system.put_file(temporary, path)
        os.unlink(temporary)
        return
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    move_into_place(temporary, place)


def write_file(place: str, data: bytes, run: int | None = None) -> None:
    """Write a small file all or nothing; does nothing where it holds these bytes already. Raises OSError.

    run: see `temporary_path`; None: this process.
    """
    try:
        if read_file(place) == data:
            return
    except OSError:
        pass
    temporary = temporary_path(place, os.getpid() if run is None else run)
    try:
        Path(temporary).write_bytes(data)
        put(temporary, place)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_hint(error: OSError) -> str:
    """What may be behind an error of writing, a sentence for the end of a message; "" where nobody knows."""
    if error.errno == errno.ENOSPC:
        return " Is the disk full?"
    if error.errno == errno.ENOENT:
        return " Its folder, or the unfinished file, was removed meanwhile."
    return ""
