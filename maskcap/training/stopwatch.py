"""Seconds of work on a device that runs behind the host."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Stopwatch:
    """Measures from `start` to the last `mark`.

    On CUDA both are events in the current stream: the work queued before `mark` is in, whatever runs later (a
    validation, a checkpoint) is not, and only `read` waits. Elsewhere both are readings of `clock`, in seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        self._started = self._marked_at = 0.0
        self._marked = False

    def start(self) -> None:
        """From here."""
        self._marked = False
        if self._events is None:
            self._started = self._clock()
        else:
            self._events[0].record()

    def mark(self) -> None:
        """To here, so far."""
        self._marked = True
        if self._events is None:
            self._marked_at = self._clock()
        else:
            self._events[1].record()

    def read(self) -> float:
        """Seconds; 0.0 without a mark since the start. On CUDA it waits until the device has come to the mark."""
        if not self._marked:
            return 0.0
        if self._events is None:
            return self._marked_at - self._started
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000
