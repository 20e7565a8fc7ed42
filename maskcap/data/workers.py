"""A data worker that was killed: found by its process id, with the likely cause."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maskcap.errors import WorkerError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

# What torch's DataLoader says; its signal handler raises it in the main thread, wherever that is.
_DEAD = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)( exited unexpectedly| is killed by signal: ([^.]*))?"
)
_LIKELY = {
    "Killed": "usually the system, because memory ran out (see dmesg, or the job's memory limit): lower "
    "data.num_workers or data.prefetch, or give the job more memory",
    "Bus error": "shared memory is full: enlarge /dev/shm (docker: --shm-size), or lower data.num_workers or "
    "data.prefetch",
}


@contextmanager
def named_worker_deaths() -> Iterator[None]:
    """What torch raises when one of its workers has died becomes a WorkerError; everything else passes.

    torch's signal handler raises between any two lines of Python, whose code may turn it into an error of another type.
    """
    try:
        yield
    except Exception as error:
        death = worker_death(error)
        if death is None:
            raise
        raise death from error


def with_named_deaths(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches; raises WorkerError for a death that is noticed while one is waited for.

    A batch whose worker has died before its tensors were fetched fails in many ways: the worker itself is then asked.
    """
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        death = worker_death(error) or _dead_worker(loader)
        if death is None:
            raise
        raise death from error


def _dead_worker(loader: DataLoader) -> WorkerError | None:
    """The first of the loader's workers that has ended by a signal or with an error."""
    for worker in getattr(getattr(loader, "_iterator", None), "_workers", ()):
        worker.join(0.1)  # a killed one's exit code is there a moment later
        if worker.exitcode:
            how = signal.strsignal(-worker.exitcode) if worker.exitcode < 0 else None
            return _death(str(worker.pid), how or "")
    return None


def worker_death(error: BaseException) -> WorkerError | None:
    """The typed error, where torch's, or one that it led to, says that a worker died; else None."""
    cause: BaseException | None = error
    while cause is not None:
        found = _DEAD.search(str(cause))
        if found is not None:
            return _death(found.group(1), (found.group(3) or "").strip())
        cause = cause.__cause__ or cause.__context__
    return None


def _death(pid: str, how: str) -> WorkerError:
    cause = next((text for name, text in _LIKELY.items() if name in how), None)
    by = f"was killed by signal {_name(how)}" if how else "ended by itself"
    advice = cause or "see its own message above, or set data.num_workers=0 to read in the main process"
    return WorkerError(f"a data worker (pid {pid}) {by}: {advice}")


def _name(how: str) -> str:
    names = {signal.strsignal(each): each.name for each in signal.valid_signals() if isinstance(each, signal.Signals)}
    return names.get(how, how)
