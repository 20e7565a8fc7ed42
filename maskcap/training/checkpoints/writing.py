"""A checkpoint's files onto the disk: whole or not at all, in the folder where they stay, synced; and leftovers away.

The order is what makes kill −9 harmless at any moment: data files, then the manifest that names them, and only then
are the data files of the manifest that it replaced removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskcap.durable import host_tag, is_alive, move_into_place, sync_folder
from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.manifest import DataFile, Manifest, read_manifest

log = logging.getLogger(__name__)

_DAY = 86400  # seconds
# last.12-1a2b3c4d_4711_9f8e7d6c.safetensors: step, host, process, a random number. A dot before it: unfinished.
_DATA = re.compile(r"\.?.+\.\d+-([0-9a-f]{8})_(\d+)_[0-9a-f]{8}\.(?:safetensors|pt|ckpt)(?:\.tmp)?")


def nonce() -> str:
    """What makes data files' names new, and tells whose they are."""
    return f"{host_tag()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


class HashedFile:
    """A file that is written once, front to back: counts and hashes its bytes, and keeps its own OSError.

    (torch.save turns an error of `write` into a RuntimeError without a number.)
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it. Raises OSError."""
        left = memoryview(data).cast("B")
        count = len(left)
        try:
            while len(left):  # a raw file may take less
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self.size += count
        return count

    def flush(self) -> None:
        """Nothing is held back."""

    def finish(self, name: str) -> DataFile:
        """Sync; what the manifest says of it. Raises OSError."""
        os.fsync(self._file.fileno())
        return DataFile(name, self.size, self._hash.hexdigest())

    def close(self) -> None:
        """Without a sync."""
        self._file.close()


def write_data(place: Path, write: Callable[[Any], None], check: Callable[[Path], None] | None = None) -> DataFile:
    """What `write` puts into a file, at `place`; on any error nothing is left. Raises OSError, whatever check raises.

    check: looks at the finished file before it gets its name.
    """
    temporary = place.with_name(f".{place.name}.tmp")
    file = HashedFile(temporary)
    try:
        try:
            write(file)
        except Exception:
            if file.error is not None:
                raise file.error from None
            raise
        facts = file.finish(place.name)
        file.close()
        if check is not None:
            check(temporary)
        move_into_place(str(temporary), str(place))
        return facts
    finally:
        file.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_manifest(path: Path, text: str, tag: str) -> None:
    """The text at `path`, all or nothing. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{tag}.ckpt.tmp")
    file = HashedFile(temporary)
    try:
        file.write(text.encode())
        file.finish(path.name)
        file.close()
        move_into_place(str(temporary), str(path))
    finally:
        file.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_data(folder: Path, manifest: Manifest | None) -> None:
    """Remove the data files of a manifest that is gone, but for those that another in the folder names: a copy of it,
    or what it was a link to. One that cannot be removed is a leftover of the next save."""
    named = None if manifest is None else _named_in(folder)
    if manifest is None or named is None:
        return
    for file in manifest.files:
        if file.name not in named:
            with suppress(OSError):
                (folder / file.name).unlink(missing_ok=True)


def _named_in(folder: Path) -> set[str] | None:
    """The data files that the folder's manifests name; None, with a warning, while one cannot be read."""
    named: set[str] = set()
    for path in folder.glob("*.ckpt"):
        try:
            manifest = read_manifest(path)
        except CheckpointError as error:
            log.warning("no files are removed from %s: %s", folder, error)
            return None
        named |= {file.name for file in manifest.files} if manifest is not None else set()
    return named


def remove_leftovers(folder: Path) -> list[str]:
    """Remove data and unfinished files that no manifest in the folder names, and whose process is gone; their names.

    Gone is a process of this machine that does not run, and one elsewhere that has not written for a day. This one's
    own are of no use either once a save has ended. While a manifest cannot be read, nothing is removed.
    """
    named = _named_in(folder)
    if named is None:
        return []
    removed = []
    for path in folder.iterdir():
        match = _DATA.fullmatch(path.name)
        if match is None or path.name in named:
            continue
        with suppress(OSError):
            if _is_abandoned(path, match[1], int(match[2])):
                path.unlink()
                removed.append(path.name)
    if removed:
        sync_folder(str(folder))
    return removed


def _is_abandoned(path: Path, host: str, pid: int) -> bool:
    if host != host_tag():
        return time.time() - path.stat().st_mtime > _DAY
    return pid == os.getpid() or not is_alive(pid)
