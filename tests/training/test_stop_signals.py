"""The handler notes, is found again, and goes as it came."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from maskcap.training.stop_signals import STOP_SIGNALS, Stopped, StopSignals, noted_stop_signals, stop_signals


@pytest.fixture(autouse=True)
def default_handlers():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_notes_the_first_signal_alone(number):
    with noted_stop_signals() as noted:
        assert noted.received is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted.received is number


def test_is_found_again_and_used_once():
    assert stop_signals() is None
    with noted_stop_signals() as outer:
        assert stop_signals() is outer
        with noted_stop_signals() as inner:
            assert inner is outer
        assert stop_signals() is outer
    assert stop_signals() is None


def test_former_handlers_come_back():
    former = StopSignals()
    signal.signal(signal.SIGUSR2, former)  # submitit's, say
    with noted_stop_signals() as noted:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR2) is noted
    assert signal.getsignal(signal.SIGUSR2) is noted, "a second signal must not kill a process that is ending"

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, former)
    with noted_stop_signals():
        pass
    assert signal.getsignal(signal.SIGUSR2) is former
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_in_another_thread_nothing_is_installed():
    seen = []

    def look() -> None:
        with noted_stop_signals() as noted:
            seen.append((noted.received, stop_signals()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(None, None)]


def test_ctrl_c_stays_as_it_is():
    before = signal.getsignal(signal.SIGINT)
    with noted_stop_signals():
        assert signal.getsignal(signal.SIGINT) is before


def test_stopped_is_an_exit_with_the_shells_code():
    assert Stopped(signal.SIGTERM).code == 143
    assert isinstance(Stopped(signal.SIGUSR1), SystemExit)
