"""Where there is no terminal, a line now and then says how far a command is."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from maskcap.cli import record_progress


def test_lines_in_a_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 4.0, 12.0, 15.0, 23.0])
    monkeypatch.setattr(record_progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with caplog.at_level(logging.INFO), record_progress.record_progress(100) as progress:
        for _ in range(4):
            progress("train/main", 10, 1)
    assert [record.message for record in caplog.records] == [
        "train/main: 20 of 100 records, 2 problems, 1.7 records/s, 48 s left",
        "train/main: 40 of 100 records, 4 problems, 1.7 records/s, 34 s left",
    ]


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    with record_progress.record_progress(3) as progress:
        progress("train/main", 3, 2)
    shown = capsys.readouterr().err
    assert "train/main" in shown and "3/3" in shown and "2 problems" in shown
