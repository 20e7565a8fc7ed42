"""Files in a local folder or at any fsspec URL, by the few operations that shards need.

A place is a string: a local path, or a URL (`s3://…`, `gs://…`, `https://…`, `memory://…`; `file://` is local).
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from maskcap.errors import ConfigError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(::[a-zA-Z0-9+.-]+)*://")
_CHUNK = 2**22
_REQUESTS = 16  # at once


def place_of(path: str | Path) -> str:
    """The place as a string: a URL as it is, a local path absolute (so that a later change of folder is harmless)."""
    text = os.fspath(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return text.rstrip("/") if is_url(text) else os.path.abspath(os.path.expanduser(text))


def is_url(place: str) -> bool:
    """Whether fsspec has to be asked; local paths never import it."""
    return _URL.match(place) is not None


def join(folder: str, name: str) -> str:
    """The place of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def filesystem(place: str) -> tuple[Any, str]:
    """(fsspec's file system, path in it) of a URL; fsspec keeps the file systems, and knows of forks.

    Raises ConfigError for a protocol that fsspec does not know or whose package is not installed.
    """
    import fsspec

    try:
        return fsspec.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be opened ({error}). Install the package, or copy it to a disk") from error


def exists(place: str) -> bool:
    """Whether there is a file (or folder)."""
    if not is_url(place):
        return os.path.exists(place)
    system, path = filesystem(place)
    return system.exists(path)


def list_files(folder: str) -> dict[str, int]:
    """Name → size in bytes of the files in a folder, by name; empty where there is no such folder."""
    if not is_url(folder):
        try:
            with os.scandir(folder) as entries:
                return dict(sorted((entry.name, entry.stat().st_size) for entry in entries if entry.is_file()))
        except (FileNotFoundError, NotADirectoryError):
            return {}
    system, path = filesystem(folder)
    try:
        entries = system.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    files = [entry for entry in entries if entry["type"] == "file" and entry["size"] is not None]
    return dict(sorted((entry["name"].rstrip("/").rpartition("/")[2], int(entry["size"])) for entry in files))


def sizes_of(folder: str, names: Sequence[str]) -> dict[str, int]:
    """Name → size in bytes of those files that are there: by listing the folder, or one by one where it does not list
    them (a web server)."""
    found = list_files(folder)
    unlisted = [name for name in names if name not in found] if is_url(folder) else []
    if unlisted:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            sizes = pool.map(lambda name: _size_at(join(folder, name)), unlisted)
            found |= {name: size for name, size in zip(unlisted, sizes, strict=True) if size is not None}
    return found


def _size_at(url: str) -> int | None:
    system, path = filesystem(url)
    try:
        return system.info(path)["size"]
    except OSError:
        return None


def read_file(place: str) -> bytes:
    """A whole file. Raises OSError (FileNotFoundError where there is none)."""
    if not is_url(place):
        return Path(place).read_bytes()
    system, path = filesystem(place)
    return system.cat_file(path)


def read_files(places: Sequence[str]) -> Iterator[bytes | OSError]:
    """Each file's bytes, or what went wrong, in order; from URLs many at a time."""
    if not places or not is_url(places[0]):
        yield from (_or_error(place) for place in places)
        return
    for start in range(0, len(places), 256):
        batch = places[start : start + 256]
        system, _ = filesystem(batch[0])
        paths = [filesystem(place)[1] for place in batch]
        read: Mapping[str, Any] = system.cat(paths, on_error="return")
        for path in paths:
            found = read.get(path, FileNotFoundError(path))
            yield found if isinstance(found, (bytes, OSError)) else OSError(str(found))


def _or_error(place: str) -> bytes | OSError:
    try:
        return read_file(place)
    except OSError as error:
        return error


def digest(place: str) -> str:
    """sha256 of a file, hex; reads it once. Raises OSError."""
    if not is_url(place):
        with open(place, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    system, path = filesystem(place)
    found = hashlib.sha256()
    with system.open(path, "rb", block_size=_CHUNK, cache_type="readahead") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def make_folder(folder: str) -> None:
    """Make a folder and those above it, where it is not there. Raises ConfigError."""
    try:
        if is_url(folder):
            system, path = filesystem(folder)
            system.makedirs(path, exist_ok=True)
        else:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot be made ({error.strerror or error}). Choose another folder") from error


def temporary_path(place: str, owner: int) -> str:
    """A new local path to write `place`'s bytes to before `put`: beside it, or for a URL in the temporary folder.

    `owner` is the number of the shard, or job, that it belongs to (see `remove_stale`).
    """
    folder, _, name = place.rpartition("/")
    return join(_temporary_folder(folder), f".{_tag(folder)}{name}.{owner}.{uuid.uuid4().hex}.tmp")


def remove_stale(folder: str, job: int, jobs: int) -> list[str]:
    """Remove the temporary files of shards (or jobs) n with n % jobs == job, left by killed runs; their names.

    Those of other jobs stay: they may be at work.
    """
    there, tag = _temporary_folder(folder), _tag(folder)
    pattern = re.compile(rf"\.{tag}[\w.-]+\.(\d+)\.[0-9a-f]{{32}}\.tmp")
    stale = []
    for name in list_files(there):
        match = pattern.fullmatch(name)
        if match and int(match[1]) % jobs == job:
            Path(join(there, name)).unlink(missing_ok=True)
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
        system.put_file(temporary, path)
        os.unlink(temporary)
        return
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, place)
    folder = os.open(os.path.dirname(place), os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must survive a crash of the machine
    finally:
        os.close(folder)


def write_file(place: str, data: bytes, owner: int) -> None:
    """Write a small file all or nothing; does nothing where it holds these bytes already."""
    try:
        if read_file(place) == data:
            return
    except OSError:
        pass
    temporary = temporary_path(place, owner)
    try:
        Path(temporary).write_bytes(data)
        put(temporary, place)
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove(place: str) -> None:
    """Remove a file, where it is there."""
    if not is_url(place):
        Path(place).unlink(missing_ok=True)
        return
    system, path = filesystem(place)
    if system.exists(path):
        system.rm_file(path)
