"""How a rank leaves when another one has ended the run: named, written down, at once."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from maskcap.training.watch.state import Failure

log = logging.getLogger(__name__)

EXIT_CODE = 3  # of ranks that leave because of another one
_PATIENCE = 10.0  # seconds for the writing: a file system that hangs may be what is wrong

# What torch says of a collective that another rank has left.
_BROKEN = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "timed out waiting")


def end_process(failure: Failure, file: Path, note: Callable[[Failure], None] | None = None) -> None:
    """Name the culprit on stderr, in the run's log, in `file` (the first rank to get there) and by `note`, and leave
    with EXIT_CODE. Does not return: the main thread may be in a collective that nothing interrupts."""
    last = threading.Timer(_PATIENCE, os._exit, (EXIT_CODE,))
    last.daemon = True
    last.start()
    message = f"{failure.message}; the run ends, and resumes from its newest checkpoint"
    with suppress(OSError, ValueError):
        print(f"error: {message}", file=sys.stderr, flush=True)
        if failure.fault == "stuck":
            faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            out.write(json.dumps({"time": now, **failure.facts()}, indent=2) + "\n")
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None))
                handler.flush()
    if note is not None:
        with suppress(Exception):  # whatever it is, this process must leave
            note(failure)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(EXIT_CODE)


def comes_from_another_rank(error: BaseException) -> bool:
    """Whether an exception only says that a collective broke: another rank is the cause."""
    import torch.distributed as dist

    kinds = tuple(kind for name in ("DistError", "DistBackendError") if (kind := getattr(dist, name, None)))
    text = str(error).lower()
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(mark in text for mark in _BROKEN))
