"""How far a long command is: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

_LINE_EVERY = 30.0  # seconds


class Progress:
    """`with Progress("shards", 12) as progress: … progress.advance("345 records")`."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def advance(self, note: str) -> None:
        """One more is done; `note` says what all of them together hold."""
        self._done += 1
        if sys.stderr.isatty():
            self._draw(note)
        elif self._done == self._total or time.monotonic() - self._said > _LINE_EVERY:
            self._said = time.monotonic()
            logger.info("%d of %d %s: %s", self._done, self._total, self._what, note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, note: str) -> None:
        if self._bar is None:
            # Made at the first result, when the workers have been forked: the bar has a thread.
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self._what, total=self._total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=self._done, note=note)
