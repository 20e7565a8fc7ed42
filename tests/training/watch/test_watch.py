"""The watch's thread beside strangers, a suspend and an error of its own."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from maskcap.training.watch.lines import Lines
from maskcap.training.watch.state import Failure, Heard, RankState
from maskcap.training.watch.watch import Timeouts, Watch

TIMEOUTS = Timeouts(beat=0.05, rank=1, stall=5, grace=0.5)


@pytest.fixture
def pair() -> Iterator[tuple[Watch, Watch, list[Failure]]]:
    """The started watches of two ranks of this process, and the failures that they find."""
    failures: list[Failure] = []
    hub = Watch(RankState(0), TIMEOUTS, failures.append)
    other = Watch(RankState(1), TIMEOUTS, failures.append, hub.address)
    for watch in (hub, other):
        watch.meet([hub.state, other.state])
        watch.start()
    yield hub, other, failures
    for watch in (other, hub):
        watch.leave()
        assert not watch.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Waits for it, 10 s at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


STRANGERS = [
    b"GET / HTTP/1.0\r\n\r\n", b"\xff\xfe\x00\n", b"[1, 2]\n", b"7\n", b'"text"\n', b"[" * 60_000 + b"\n",
    b'{"token": "\xc3\xa4\xe2\x82\xac"}\n', b'{"token": "\\ud800"}\n', b'{"token": null}\n', b"x" * 200_000,
]  # fmt: skip


def test_strangers_are_shown_out_and_harm_nobody(pair: tuple[Watch, Watch, list[Failure]]) -> None:
    hub, other, failures = pair
    for said in STRANGERS:
        with socket.create_connection((hub.address.host, hub.address.port), timeout=10) as stranger:
            try:
                stranger.sendall(said)
                assert stranger.recv(1) == b""  # closed
            except ConnectionError:
                pass  # closed with something unread
    time.sleep(2 * TIMEOUTS.rank)
    assert hub.is_alive() and other.is_alive() and not failures


@pytest.mark.parametrize("failing", [0, 1])
def test_a_watch_that_fails_ends_alone_and_says_so(
    failing: int, pair: tuple[Watch, Watch, list[Failure]], caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole, failures = pair[failing], pair[1 - failing], pair[2]
    assert isinstance(broken, Watch) and isinstance(whole, Watch)
    time.sleep(0.3)
    with caplog.at_level(logging.ERROR):
        broken._heard = None  # type: ignore[assignment]
        until(lambda: not broken.is_alive())
    assert f"the watch of rank {failing} has failed and ends: the run goes on" in caplog.text
    time.sleep(1.5 * TIMEOUTS.rank)
    assert whole.is_alive() and not failures


def test_after_a_suspend_of_everybody_nobody_is_late() -> None:
    failures: list[Failure] = []
    hub = Watch(RankState(0), Timeouts(beat=0.05, rank=0.5, stall=1, grace=1), failures.append)
    beat, slept = hub._beat, []

    def suspended() -> None:
        """As long as a machine sleeps."""
        hub._beat = beat
        time.sleep(1.5)
        slept.append(True)

    hub.start()
    hub._beat = suspended
    until(lambda: bool(slept))
    time.sleep(0.4)
    assert hub.is_alive() and not failures
    until(lambda: bool(failures))  # it does find out what is stuck
    assert failures[0].fault == "stuck"
    hub.leave()


def test_a_line_that_a_full_buffer_cuts_is_finished_first() -> None:
    one, two = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    lines, heard = Lines(one), Lines(two)
    for number in range(20):
        lines.send({"number": number, "text": "x" * 999})
        assert one.gettimeout() == 0
    found = []
    for _ in range(20):
        found += [each["number"] for each in heard.receive() or []]
        lines.send({"number": 99})
    assert found[:3] == [0, 1, 2] and 19 not in found and 99 in found
    heard.close()
    lines.send({"number": 1})  # nobody there
    lines.close()


def test_a_new_state_is_progress() -> None:
    heard = Heard(RankState(0), progress_at=0.0)
    heard.hear(RankState(0, ticks=1))
    assert heard.progress_at > 0
