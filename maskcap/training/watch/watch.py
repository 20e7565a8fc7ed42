"""The thread in which a rank says that it lives and listens to the others.

Rank 0 keeps the hub: every other rank is connected to it by a socket of its own, apart from what trains. A killed
process closes its sockets at once, a stopped one falls silent, a stuck one repeats itself. Whoever finds one out tells
the others, and every live rank leaves.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from maskcap.training.watch.lines import Lines
from maskcap.training.watch.state import Failure, Heard, RankState, stuck

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: beat: between two signs of life; rank: of silence, stall: without progress, after which a rank ends the
    run; grace: that ranks have to leave by themselves when one of them has failed."""

    beat: float = 2.0
    rank: float = 60.0
    stall: float = 1800.0
    grace: float = 10.0


@dataclass(frozen=True)
class Address:
    """Where the hub listens, and the word that its ranks know it by."""

    host: str
    port: int
    token: str


class Watch(threading.Thread):
    """One rank's watch. `end`: called once, from this thread, with the failure that ends the run.

    state: this rank's own; its main thread ticks it. Rank 0 gives no address, and has one for the others.
    `meet` tells it whom to expect, before it starts.
    """

    def __init__(
        self, state: RankState, timeouts: Timeouts, end: Callable[[Failure], None], address: Address | None = None
    ) -> None:
        super().__init__(name="maskcap-watch", daemon=True)
        self.state, self.timeouts = state, timeouts
        self._end = end
        self._selector = selectors.DefaultSelector()
        self._heard: dict[int, Heard] = {state.rank: Heard(state)}
        self._ranks: dict[Lines, int | None] = {}  # of each connection; None: it has not shown its word yet
        self._failed: dict[int, float] = {}  # when a rank was heard to have failed
        self._leaving = threading.Event()
        self._bell, self._wake = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self.address = self._listen() if address is None else address
        if address is not None:
            hub = Lines(socket.create_connection((address.host, address.port), timeout=timeouts.rank))
            hub.send({"token": address.token})
            self._join(hub, 0)

    def meet(self, states: Sequence[RankState]) -> None:
        """All ranks' states, by rank: those that this one listens to are overdue from now on."""
        for state in states if self._listener is not None else states[:1]:
            self._heard.setdefault(state.rank, Heard(state))

    def run(self) -> None:
        """Until `leave`, or a failure. An error of the watch's own ends the watch, and not the run."""
        try:
            self._watch()
        except Exception:
            log.exception(
                "the watch of rank %d has failed and ends: the run goes on, and a rank that dies or sticks may no "
                "longer be found out",
                self.state.rank,
            )
            gone = {"state": replace(self.state, phase="done").message()}
            for lines in self._ranks:
                lines.send(gone)  # or the others would take its silence for the rank's
            self._close()

    def _watch(self) -> None:
        self._beat()
        due = last = time.monotonic()
        while not self._leaving.is_set():
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                failure = self._read(key.fileobj) if isinstance(key.fileobj, Lines) else self._accept(key.fileobj)
                if failure is not None:
                    return self._finish(failure)
            now = time.monotonic()
            if now - last > self.timeouts.rank:  # this process was stopped: what it has not heard proves nothing
                for each in self._heard.values():
                    each.at = each.progress_at = now
            last = now
            if now >= due:
                due = now + self.timeouts.beat
                self._beat()
                failure = self._overdue(now)
                if failure is not None:
                    return self._finish(failure)
        self._beat()
        self._close()

    def leave(self, error: BaseException | None = None) -> None:
        """This rank ends, well or by an error: the others are told."""
        self.state.error = "" if error is None else f"{type(error).__name__}: {str(error)[:500]}"
        self.state.phase = "done" if error is None else "failed"
        self._leaving.set()
        with suppress(OSError):  # the thread has ended
            self._wake.send(b".")
        self.join(2 * self.timeouts.beat + 1)
        self._wake.close()

    def _listen(self) -> Address:
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        self._listener = socket.create_server(("127.0.0.1" if host in _LOCAL else "", 0))
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        return Address(host, self._listener.getsockname()[1], secrets.token_hex(16))

    def _beat(self) -> None:
        self.state.look()
        self._heard[self.state.rank].hear(RankState.of(self.state.message()))
        for lines, rank in self._ranks.items():
            if rank is not None:
                lines.send({"state": self.state.message()})

    def _join(self, lines: Lines, rank: int | None) -> None:
        self._ranks[lines] = rank
        self._selector.register(lines, selectors.EVENT_READ)

    def _accept(self, ready: object) -> None:
        """A new connection; the bell only wakes the thread."""
        if self._listener is None or ready is not self._listener:
            return
        try:
            self._join(Lines(self._listener.accept()[0]), None)
        except OSError:  # it is gone already, or there are too many files open: not at full speed, then
            self._leaving.wait(0.1)

    def _read(self, lines: Lines) -> Failure | None:
        """Hear one connection."""
        messages = lines.receive()
        for message in messages or []:
            if self._ranks[lines] is None:
                token = str(message.get("token", "")).encode(errors="replace")
                if not hmac.compare_digest(token, self.address.token.encode()):
                    return self._lost(lines)  # not of this run
                self._ranks[lines] = _NAMELESS
            elif "failure" in message:
                return Failure(message["failure"], RankState.of(message["of"]), message["seconds"])
            elif "state" in message:
                self._hear(lines, RankState.of(message["state"]))
        return self._lost(lines) if messages is None else None

    def _hear(self, lines: Lines, state: RankState) -> None:
        self._ranks[lines] = state.rank
        self._heard.setdefault(state.rank, Heard(state)).hear(state)
        if state.phase == "failed":
            self._failed.setdefault(state.rank, time.monotonic())

    def _lost(self, lines: Lines) -> Failure | None:
        """A connection has ended: in good order, or with its process."""
        self._selector.unregister(lines)
        rank = self._ranks.pop(lines)
        lines.close()
        if rank is None or rank not in self._heard or self._heard[rank].state.phase != "running":
            return None
        return Failure("died", self._heard[rank].state)

    def _overdue(self, now: float) -> Failure | None:
        """Whoever has been silent, stuck or failed for too long."""
        for rank, each in self._heard.items():
            if each.state.phase == "running" and rank != self.state.rank and now - each.at > self.timeouts.rank:
                return Failure("silent", each.state, now - each.at)
        for rank, since in self._failed.items():
            if now - since > self.timeouts.grace:
                return Failure("failed", self._heard[rank].state)
        return stuck(self._heard, self.timeouts.stall, now) if self._listener is not None else None

    def _finish(self, failure: Failure) -> None:
        message = {"failure": failure.fault, "of": failure.state.message(), "seconds": failure.seconds}
        for lines in self._ranks:
            lines.send(message)
        self._end(failure)
        self._close()

    def _close(self) -> None:
        for lines in self._ranks:
            lines.close()
        if self._listener is not None:
            self._listener.close()
        self._selector.close()
        self._bell.close()


_NAMELESS = -1  # of a connection that has shown its word, and not its rank
_LOCAL = ("127.0.0.1", "localhost", "::1")
