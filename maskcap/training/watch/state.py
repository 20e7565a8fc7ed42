"""What a rank says of itself, and what is wrong with one that does not."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Literal, TypeAlias

# Where a rank waits for others: collectives, and the backward, in which DDP averages gradients.
_WAITING = ("torch/distributed/", "torch/autograd/graph.py", "torch/nn/parallel/distributed.py")

Fault: TypeAlias = Literal["died", "silent", "stuck", "failed"]


@dataclass
class RankState:
    """A rank as it last described itself; it changes its own, and keeps what it heard of others.

    ticks: grows with everything its main thread does. step: optimizer steps. doing: a few words. place: the line of
    code that its main thread is in, and waits: whether that waits for other ranks. phase: "running", "done" (it left
    in good order), "failed" (an error, named in `error`, ends it).
    """

    rank: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    ticks: int = 0
    step: int = 0
    doing: str = "starting"
    place: str = ""
    waits: bool = False
    phase: Literal["running", "done", "failed"] = "running"
    error: str = ""

    def tick(self, doing: str, step: int) -> None:
        """The main thread has come here."""
        self.doing, self.step = doing, step
        self.ticks += 1

    def look(self) -> None:
        """Note where the main thread is; called by another thread."""
        frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
        if frame is None:
            return
        self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        files = []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        self.waits = any(part in file for file in files for part in _WAITING)

    def message(self) -> dict[str, Any]:
        """As JSON carries it; `of` builds it again."""
        return asdict(self)

    @classmethod
    def of(cls, message: dict[str, Any]) -> RankState:
        """The inverse of `message`. Raises TypeError for anything else."""
        return cls(**message)


@dataclass
class Heard:
    """Another rank's state with the times (monotonic seconds, of this process) of hearing it and of its progress."""

    state: RankState
    at: float = field(default_factory=time.monotonic)
    progress_at: float = field(default_factory=time.monotonic)

    def hear(self, state: RankState) -> None:
        """A new description has come."""
        now = time.monotonic()
        if state.ticks != self.state.ticks or state.phase != self.state.phase:
            self.progress_at = now
        self.state, self.at = state, now


@dataclass(frozen=True)
class Failure:
    """The rank that ends the run, and why; `seconds`: how long it has been silent or stuck, else 0."""

    fault: Fault
    state: RankState
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """One line: rank, host, pid, last step, what it was doing, and what to look at."""
        state = self.state
        who = f"rank {state.rank} (host {state.host}, pid {state.pid})"
        where = f"when last heard it was at step {state.step}, in {state.doing}" + (
            f" ({state.place})" if state.place else ""
        )
        if self.fault == "died":
            return f"{who} has died: {where}. Killed from outside, or out of memory? See its own output and dmesg"
        if self.fault == "silent":
            return f"{who} has not answered for {self.seconds:.0f} s: {where}. Stopped, or its machine is unreachable"
        if self.fault == "stuck":
            return f"{who} has made no progress for {self.seconds:.0f} s: {where}. Each rank's output shows its stack"
        return f"{who} has failed: {state.error}; {where}"

    def facts(self) -> dict[str, Any]:
        """For failure.json."""
        return {"fault": self.fault, "seconds": round(self.seconds, 1), **self.state.message(), "message": self.message}


def stuck(heard: dict[int, Heard], stall_timeout: float, now: float) -> Failure | None:
    """The rank that the others wait for, once one has made no progress for stall_timeout seconds: one that waits for
    nobody, or else the one that is furthest behind. now: monotonic seconds."""
    running = [each for each in heard.values() if each.state.phase == "running"]
    late = [each for each in running if now - each.progress_at > stall_timeout]
    if not late:
        return None
    first = min(late, key=lambda each: (each.state.waits, each.state.ticks, each.state.rank))
    return Failure("stuck", first.state, now - first.progress_at)
