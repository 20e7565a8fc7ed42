"""A bar in a terminal; where there is none, a line now and then says how far a command is."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from maskcap.data import progress as progress_module
from maskcap.data.progress import Progress


def test_lines_in_a_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 4.0, 12.0, 15.0, 23.0])
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with caplog.at_level(logging.INFO), Progress("records", 100, every=10.0) as progress:
        for found in range(1, 5):
            progress.advance(f"{found} problems", count=10, part="train/main")
    assert [record.message for record in caplog.records] == [
        "train/main: 20 of 100 records, 2 problems, 1.7 records/s, 48 s left",
        "train/main: 40 of 100 records, 4 problems, 1.7 records/s, 34 s left",
    ]


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    with Progress("records", 3) as progress:
        progress.advance("2 problems", count=3, part="train/main")
    shown = capsys.readouterr().err
    assert "train/main" in shown and "3/3" in shown and "2 problems" in shown


def test_a_bar_on_a_terminal_and_the_last_line_elsewhere(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    with caplog.at_level(logging.INFO), Progress("shards", 2) as progress:
        progress.advance("1 record")
        progress.advance("3 records")
    assert [record.getMessage() for record in caplog.records] == ["2 of 2 shards: 3 records"]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("shards", 2) as progress:
        progress.advance("1 record")
        progress.advance("3 records")
    assert "2/2" in terminal.getvalue() and "3 records" in terminal.getvalue()
