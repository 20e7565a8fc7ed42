from __future__ import annotations

import errno
import logging
import os
import subprocess
from pathlib import Path

import pytest

from maskcap.durable import host_tag, is_alive, move_into_place, replacing, where_there_is_room, write_whole


def test_whose_processes_run():
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert is_alive(os.getpid()) and is_alive(1) and not is_alive(dead.pid) and not is_alive(10**30)
    assert len(host_tag()) == 8 and host_tag() == host_tag()


def test_a_file_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("new").write_text("new")
    Path("old").write_text("old")
    move_into_place("new", "old")  # in the working folder, which has no name here
    assert Path("old").read_text() == "new" and not Path("new").exists()


def test_a_full_disk_loses_a_record_and_says_so(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR), where_there_is_room("curves.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "curves.png could not be written: No space left on device. The run goes on" in caplog.text
    with pytest.raises(PermissionError), where_there_is_room("curves.png"):
        raise OSError(errno.EACCES, "Permission denied")


def test_a_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", "text")
    write_whole(tmp_path / "new" / "file", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    place = tmp_path / "rows.csv"
    write_whole(place, "old")
    with pytest.raises(ValueError, match="half-way"), replacing(place) as unfinished:
        unfinished.write_text("ne")
        raise ValueError("half-way")
    assert place.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
