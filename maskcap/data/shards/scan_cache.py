"""Scans of tars, kept in the cache folder by what the tar was: its place, size and time of change."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskcap.data.shards.atomic import put, temporary_path
from maskcap.data.shards.scan import Slot, scan_tar
from maskcap.data.shards.texts import Texts

logger = logging.getLogger(__name__)

_VERSION = 1  # raise it when a scan comes to hold something else
_THREADS = 8  # what takes time is waiting for disk or network
_HALVES = ("jpg", "json")


@dataclass(frozen=True)
class Tar:
    """A tar's place, size in bytes (None: it is missing), and a text that changes when its content does."""

    place: str
    size: int | None
    stamp: str = ""


@dataclass(frozen=True)
class TarScan:
    """A tar's samples in order (n).

    stems:    "sa_N", or the name of a piece of damage.
    folders:  what stands before it in the members' names; folder, int32 (n,): the number of the sample's own.
    halves:   int64 (n, 4): offset and size of the JPEG's data, then of the JSON's, in bytes; -1 where unknown.
    problems: number of a sample → (reason, what is wrong).
    """

    stems: Texts
    folders: list[str]
    folder: np.ndarray
    halves: np.ndarray
    problems: dict[int, tuple[str, str]]


def scan_all(tars: Sequence[Tar]) -> list[TarScan]:
    """Scan tars, or read their scans from the cache; logs how far it is. A tar that cannot be read is a bad sample."""
    found: list[TarScan] = []
    folder = cache_folder()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for scan in pool.map(lambda tar: _cached_scan(tar, folder), tars):
            found.append(scan)
            if len(found) % 50 == 0:
                logger.info("headers of %d of %d tars read", len(found), len(tars))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/maskcap/tar-headers`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "maskcap" / "tar-headers"


def _cached_scan(tar: Tar, folder: Path) -> TarScan:
    if tar.size is None:
        return _one_problem("(missing)", "missing shard", "there is no such file")
    name = hashlib.sha256(repr((_VERSION, tar)).encode("utf-8", "surrogatepass")).hexdigest()
    kept = folder / f"{name}.npz"
    try:
        return _load(kept.read_bytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there, or of a machine that stopped while writing it
    try:
        scan = _as_scan(scan_tar(tar.place, tar.size))
    except OSError as error:
        return _one_problem("(unreadable)", "damaged shard", f"it cannot be read ({error.strerror or error})")
    _keep(kept, scan)
    return scan


def _one_problem(stem: str, reason: str, message: str) -> TarScan:
    return _as_scan([Slot(stem, problem=(reason, message))])


def _as_scan(slots: Sequence[Slot]) -> TarScan:
    halves = np.full((len(slots), 4), -1, np.int64)
    for row, slot in zip(halves, slots, strict=True):
        for number, kind in enumerate(_HALVES):
            row[2 * number : 2 * number + 2] = slot.halves.get(kind, (-1, -1))
    problems = {i: slot.problem for i, slot in enumerate(slots) if slot.problem is not None}
    folders = sorted({slot.folder for slot in slots})
    folder = np.array([folders.index(slot.folder) for slot in slots], np.int32)
    return TarScan(Texts([slot.stem for slot in slots]), folders, folder, halves, problems)


def _keep(place: Path, scan: TarScan) -> None:
    texts = {"stems": list(scan.stems), "folders": scan.folders, "problems": list(scan.problems.items())}
    data, plain = io.BytesIO(), np.frombuffer(json.dumps(texts).encode("ascii"), np.uint8)
    np.savez(data, halves=scan.halves, folder=scan.folder, texts=plain)
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(temporary_path(str(place), os.getpid()))
        temporary.write_bytes(data.getvalue())
        put(str(temporary), str(place))
    except OSError as error:
        logger.warning("%s: the tar's headers are not kept (%s) and will be read again", place, error.strerror or error)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _load(data: bytes) -> TarScan:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        halves, folder, texts = file["halves"], file["folder"], json.loads(file["texts"].tobytes())
    problems = {number: (problem[0], problem[1]) for number, problem in texts["problems"]}
    return TarScan(Texts(texts["stems"]), texts["folders"], folder, halves, problems)
