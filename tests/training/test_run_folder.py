from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskcap.durable import host_tag
from maskcap.errors import ConfigError
from maskcap.training.run_folder import LOCK, claimed, claimed_by_rank_0, system_error, unwritable
from tests.processes import join, start_ranks


def hold(run: str, leave_a_child: bool) -> None:
    """Claim a folder and stay there, with a child that outlives it for a while."""
    with claimed(Path(run)):
        if leave_a_child and os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        Path(run, "held").touch()
        time.sleep(60)


def holder_of(run: Path, output: Path, leave_a_child: bool = False) -> Any:
    (process,) = start_ranks(hold, str(run), leave_a_child, output=output)
    end = time.monotonic() + 30
    while not (run / "held").exists() and time.monotonic() < end:
        time.sleep(0.005)
    assert (run / "held").exists(), (output / "rank0.txt").read_text()
    return process


def test_two_runs_in_one_folder(tmp_path: Path):
    process = holder_of(tmp_path / "run", tmp_path)
    with pytest.raises(ConfigError, match=rf"run is in use by another run \(process {process.pid} on .*, started 20"):
        with claimed(tmp_path / "run"):
            pass
    with claimed(tmp_path / "other"):
        pass
    process.terminate()
    join([process])
    with claimed(tmp_path / "run"), claimed(tmp_path / "another"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_a_killed_runs_folder_is_free_at_once(tmp_path: Path):
    process = holder_of(tmp_path / "run", tmp_path, leave_a_child=True)  # as a loader's worker, for some seconds
    process.kill()
    assert join([process]) == [-9]
    with claimed(tmp_path / "run"):
        pass


def test_only_rank_0_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with claimed_by_rank_0(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems."""

    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_process_in_the_file_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with claimed(tmp_path):
        assert "on a file system without locks (No locks available)" in caplog.text
    values = {"host": "me", "pid": os.getppid(), "start": "now", "machine": host_tag()}
    (tmp_path / LOCK).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"process {os.getppid()} on me"):
        with claimed(tmp_path):
            pass
    dead = subprocess.Popen(["true"])
    dead.wait()
    for left in (values | {"pid": dead.pid}, values | {"machine": "other"}, "x"):
        (tmp_path / LOCK).write_text(json.dumps(left))
        with claimed(tmp_path):
            pass


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    options = ["-o", request.param, "tmpfs", str(tmp_path)]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs rights: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("small_disk", "message"),
    [("ro", "Read-only file system. Make it writable"), ("size=64k", "No space left on device. Make room there")],
    indirect=["small_disk"],
)
def test_a_read_only_or_full_folder_is_found_before_the_run(small_disk: Path, message: str):
    with pytest.raises(ConfigError, match=rf"run cannot be written: {message}, or choose another: hydra.run.dir="):
        with claimed(small_disk / "run"):
            pass


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "run").write_text("")
    for place in (tmp_path / "run", tmp_path / "run" / "inside"):
        with pytest.raises(ConfigError, match=f"{place} cannot be written: (File exists|Not a directory)"):
            with claimed(place):
                pass


def test_the_reason_behind_an_error():
    full = OSError(errno.ENOSPC, "No space left on device", "/x")
    try:
        raise ValueError("Unable to configure handler") from full
    except ValueError as error:
        assert system_error(error) is full
    assert system_error(ValueError("x")) is None
    assert str(unwritable(full)).startswith("/x cannot be written: No space left on device. Make room there")
