"""How far a long command is: a bar in a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class Progress:
    """`with Progress("shards", 12) as progress: … progress.advance("345 records")`.

    unit: what is counted, plural; `total` of them will be done.
    every: seconds between two lines in the log, where there is no terminal; the last one comes in any case.
    """

    def __init__(self, unit: str, total: int, *, every: float = 30.0) -> None:
        self._unit, self._total, self._every = unit, total, every
        self._done = 0
        self._start = self._said = time.monotonic()
        self._terminal: bool | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def advance(self, note: str, *, count: int = 1, part: str = "") -> None:
        """`count` more are done; `note` says what all of them together hold, `part` which part of them is at work."""
        self._done += count
        if self._terminal is None:
            from rich.console import Console

            self._terminal = Console(stderr=True).is_terminal
        if self._terminal:
            self._draw(note, part)
        else:
            self._say(note, part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, note: str, part: str) -> None:
        now = time.monotonic()
        left = self._total - self._done
        if left and now - self._said < self._every:
            return
        self._said = now
        done = f"{self._done} of {self._total} {self._unit}"
        line = f"{part}: {done}, {note}" if part and left else f"{done}: {note}"
        if left:
            rate = self._done / (now - self._start)
            line += f", {rate:.1f} {self._unit}/s, {left / rate:.0f} s left"
        logger.info("%s", line)

    def _draw(self, note: str, part: str) -> None:
        if self._bar is None:
            # Made at the first result, when the workers have been forked: the bar has a thread.
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(self._unit))
            further = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Bar(*columns, *further, console=Console(stderr=True))
            self._task = self._bar.add_task(part, total=self._total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=self._done, description=part, note=note)
