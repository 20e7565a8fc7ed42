"""A run's folder is written by one run at a time, and can be written at all: found out before anything is loaded."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from maskcap.durable import host_tag, is_alive
from maskcap.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = ".lock"
_PROBE = 1 << 18  # bytes that must fit; what a checkpoint needs is not known yet
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


@contextmanager
def claimed_by_rank_0(run: Path) -> Iterator[None]:
    """`claimed` on rank 0; the other ranks share its folder, and its fate."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    with claimed(run) if rank_zero_only.rank == 0 else nullcontext():
        yield


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Hold the run's folder.

    Held by a lock on `<run>/.lock` that the system drops when the process ends, in whatever way, so that a dead run's
    folder is free at once. (A record lock: children that a killed process leaves for a moment do not keep it.) On a
    file system without locks the process that the file names decides, with a warning.
    Raises ConfigError when another run holds it, or when it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        opened = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(error, run) from error
    try:
        _lock(opened, run)
        try:
            _write(opened)
            with tempfile.TemporaryFile(dir=run) as probe:
                probe.write(bytes(_PROBE))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            raise unwritable(error, run) from error
        yield
    finally:
        os.close(opened)


def unwritable(error: OSError, run: Path | None = None) -> ConfigError:
    """What to tell a user whose run folder cannot be made or written to; run: None where the error names the place."""
    fix = "Make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Make it writable"
    place = run or error.filename or "the run's folder"
    return ConfigError(
        f"{place} cannot be written: {error.strerror or error}. {fix}, or choose another: hydra.run.dir=…"
    )


def system_error(error: BaseException | None) -> OSError | None:
    """The OSError that an exception is, or was raised for; None without one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _lock(opened: int, run: Path) -> None:
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(opened)
        if error.errno in _HELD:
            raise _taken(run, holder) from None
        same = holder.get("machine") == host_tag()
        if same and holder.get("pid") != os.getpid() and is_alive(int(holder.get("pid", 0))):
            raise _taken(run, holder) from None
        log.warning(
            "%s is on a file system without locks (%s): that no other machine writes to it too is not checked",
            run,
            error.strerror,
        )


def _taken(run: Path, holder: dict[str, Any]) -> ConfigError:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')}, started {holder.get('start')}"
    return ConfigError(
        f"{run} is in use by another run ({who}): two runs would overwrite each other's checkpoints. "
        "Wait for it, end it, or choose another folder: hydra.run.dir=…"
    )


def _holder(opened: int) -> dict[str, Any]:
    try:
        values = json.loads(os.pread(opened, 4096, 0))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(opened: int) -> None:
    start = datetime.now().isoformat(sep=" ", timespec="seconds")
    values = {"host": socket.gethostname(), "pid": os.getpid(), "start": start, "machine": host_tag()}
    os.ftruncate(opened, 0)
    os.pwrite(opened, (json.dumps(values) + "\n").encode(), 0)
    os.fsync(opened)
