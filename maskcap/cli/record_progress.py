"""How far a command is that goes through many records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

_LOG_EVERY = 10.0  # seconds between lines where there is no terminal


class Progress(Protocol):
    """What `record_progress` gives: call it with what was read since."""

    def __call__(self, name: str, records: int, problems: int, /) -> None:
        """`records` more records of source `name` are read."""


@contextmanager
def record_progress(total: int) -> Iterator[Progress]:
    """Shows how many of `total` records are read: a bar in a terminal, else a log line every 10 s."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LogLines(total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("records"))
    further = (TimeRemainingColumn(), TextColumn("{task.fields[found]} problems"))
    with Bar(*columns, *further, console=console) as bar:
        task, found = bar.add_task("", total=total, found=0), 0

        def advance(name: str, records: int, problems: int, /) -> None:
            nonlocal found
            found += problems
            bar.update(task, advance=records, description=name, found=found)

        yield advance


class _LogLines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._found = 0
        self._start = self._last = time.monotonic()

    def __call__(self, name: str, records: int, problems: int, /) -> None:
        self._done += records
        self._found += problems
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY:
            self._last = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate
            text = "%s: %d of %d records, %d problems, %.1f records/s, %.0f s left"
            log.info(text, name, self._done, self._total, self._found, rate, left)
