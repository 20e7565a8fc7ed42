"""A process that is asked to stop notes it, and nothing more: what follows happens between two steps.

Saving or talking to other ranks inside a signal handler can meet anything half done. The handler is no global: whoever
wants to know finds it again through `signal.getsignal`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from signal import Signals
from types import FrameType

# What a person, a batch system or its warning before a time limit sends; Ctrl-C stays as it is.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopSignals:
    """A handler of `STOP_SIGNALS` that notes the first one, in `received`.

    Processes forked from this one inherit it and live on: a batch system signals all. (A loader's workers, in which
    torch has a handler of its own, see to it themselves.)
    """

    def __init__(self) -> None:
        self.received: Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python, in the main thread."""
        if self.received is None:
            self.received = Signals(number)
            # Not by print or logging, which the signal may have interrupted.
            said = f"{self.received.name} noted: the run ends with its step, saved (SIGKILL ends it at once)\n"
            with suppress(OSError):
                os.write(2, said.encode())


class Stopped(SystemExit):
    """The run was asked to stop, has saved its state, and ends: no failure. Exit code 128 + `signal`, as shells say."""

    def __init__(self, received: Signals) -> None:
        super().__init__(128 + received)
        self.signal = received


def stop_signals() -> StopSignals | None:
    """The process's handler; None where it has none."""
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, StopSignals) else None


def let_signals_act() -> None:
    """For a run that nobody will end at a step: signals do what they do by default. Raises Stopped for one that has
    come already."""
    handler = stop_signals()
    if handler is None:
        return
    if handler.received is not None:
        raise Stopped(handler.received)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def noted_stop_signals() -> Iterator[StopSignals]:
    """A handler for the time of the context: the process's own where it has one, else a new one.

    What was there before comes back at the end, unless a signal has been noted: a second one must not kill a process
    that is ending. Outside of the main thread nothing can be installed, and nothing is ever noted.
    """
    found = stop_signals()
    if found is not None or threading.current_thread() is not threading.main_thread():
        yield found or StopSignals()
        return
    handler = StopSignals()
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield handler
    finally:
        if handler.received is None:
            for number, former in before.items():
                signal.signal(number, signal.SIG_DFL if former is None else former)
