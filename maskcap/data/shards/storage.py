"""Files in a local folder or at any fsspec URL, by the few operations that shards need.

A place is a string: a local path, or a URL (`s3://…`, `gs://…`, `https://…`, `memory://…`; `file://` is local).
Whatever goes wrong is an OSError, of URLs too: FileNotFoundError where there is nothing, others for a refusal.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maskcap.errors import ConfigError, MaskcapError

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


@contextmanager
def client_errors() -> Iterator[None]:
    """What a protocol's client raises becomes an OSError.

    FileNotFoundError stands only for what is not there: fsspec's web client raises it for a refusal as well.
    """
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__
        refused = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if refused or (type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", 0) not in (404, 410)):
            raise _as_os_error(cause) from error
        raise
    except (OSError, MaskcapError):
        raise
    except Exception as error:  # each protocol's client has its own
        raise _as_os_error(error) from error


def _as_os_error(error: object) -> OSError:
    return error if isinstance(error, OSError) else OSError(errno.EIO, f"{type(error).__name__}: {error}")


def exists(place: str) -> bool:
    """Whether there is a file (or folder). Raises OSError where a server does not tell."""
    if not is_url(place):
        return os.path.exists(place)
    system, path = filesystem(place)
    try:
        with client_errors():
            system.info(path)  # fsspec's own `exists` says no when it is refused
    except FileNotFoundError:
        return False
    return True


def list_files(folder: str) -> dict[str, int]:
    """Name → size in bytes of the files in a folder, by name; empty where there is no such folder. Raises OSError."""
    if not is_url(folder):
        found = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # another run's temporary file, gone by now
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return dict(sorted(found.items()))
    system, path = filesystem(folder)
    try:
        with client_errors():
            entries = system.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    files = [entry for entry in entries if entry["type"] == "file" and entry["size"] is not None]
    return dict(sorted((entry["name"].rstrip("/").rpartition("/")[2], int(entry["size"])) for entry in files))


def sizes_of(folder: str, names: Sequence[str]) -> dict[str, int | OSError]:
    """Name → size in bytes of those files that are there, or why it cannot be known: by listing the folder, or one by
    one where it does not list them (a web server)."""
    found: dict[str, int | OSError] = {}
    try:
        found.update(list_files(folder))
    except OSError as error:
        if not is_url(folder):
            return dict.fromkeys(names, error)
    unlisted = [name for name in names if name not in found] if is_url(folder) else []
    if unlisted:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            sizes = pool.map(lambda name: _size_at(join(folder, name)), unlisted)
            found |= {name: size for name, size in zip(unlisted, sizes, strict=True) if size is not None}
    return found


def _size_at(url: str) -> int | OSError | None:
    try:
        return describe_url(url)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


def describe_url(url: str) -> tuple[int, str]:
    """A file's size in bytes, and a text that changes with it where the protocol has one. Raises OSError."""
    system, path = filesystem(url)
    with client_errors():
        size, stamp = system.info(path)["size"], str(system.ukey(path))
    if size is None:
        raise OSError(errno.EIO, "its server does not say how long it is")
    return int(size), stamp


def read_file(place: str) -> bytes:
    """A whole file. Raises OSError (FileNotFoundError where there is none)."""
    if not is_url(place):
        return Path(place).read_bytes()
    system, path = filesystem(place)
    with client_errors():
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
        read: Mapping[str, Any]
        try:
            with client_errors():
                read = system.cat(paths, on_error="return")
        except OSError as error:
            read = dict.fromkeys(paths, error)
        for path in paths:
            found = read.get(path, FileNotFoundError(path))
            yield found if isinstance(found, bytes) else _as_os_error(found)


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
    with client_errors(), system.open(path, "rb", block_size=_CHUNK, cache_type="readahead") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def make_folder(folder: str) -> None:
    """Make a folder and those above it, where it is not there. Raises ConfigError."""
    try:
        if is_url(folder):
            system, path = filesystem(folder)
            with client_errors():
                system.makedirs(path, exist_ok=True)
        else:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot be made ({error.strerror or error}). Choose another folder") from error


def remove(place: str) -> None:
    """Remove a file, where it is there. Raises OSError."""
    if not is_url(place):
        Path(place).unlink(missing_ok=True)
        return
    system, path = filesystem(place)
    with suppress(FileNotFoundError), client_errors():
        if exists(place):
            system.rm_file(path)
