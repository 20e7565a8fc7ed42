"""kill −9 at random moments: a second run ends with the files of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.holdout import RecordSubset
from maskcap.data.record import Record
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards

KILLS = 20
OPTIONS = ShardOptions(groups_per_shard=3, resize=48)


def start(source: Sequence[Record], out: Path) -> multiprocessing.process.BaseProcess:
    """A process of its own that writes with two workers; forked, so that it need not import torch again."""
    process = multiprocessing.get_context("fork").Process(target=write_shards, args=(source, out, OPTIONS))
    process.start()
    return process


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Workers of a killed run notice within an image; a slow machine may need a moment."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("name", ["refcoco"])
def test_killed_at_any_moment_and_run_again(name: str, source, contents, tmp_path: Path):
    records = source(name, 60)
    start(records, tmp_path / "first").join()  # the first fork is slower
    begun = time.monotonic()
    start(records, tmp_path / "undisturbed").join()
    duration = time.monotonic() - begun
    expected = contents(tmp_path / "undisturbed")
    assert expected == contents(tmp_path / "first") and len(expected) == 2 * 20 + 2

    moments = np.random.default_rng(0).uniform(0, duration / KILLS, KILLS)
    found = []
    for number, moment in enumerate(moments):
        out = tmp_path / f"killed{number}"
        process = start(records, out)
        # by what is written, and not by the clock alone: beside other jobs the runs are not equally fast
        while process.is_alive() and len(list(out.glob("shard-*.tar"))) < number:
            time.sleep(0.001)
        time.sleep(moment)
        process.kill()  # SIGKILL
        process.join()
        found.append(len(list(out.glob("shard-*.tar"))) if out.exists() else 0)
        again = write_shards(records, out, OPTIONS, workers=0)
        assert again.finished and again.written + again.kept == 20
        assert wait_until(lambda out=out: contents(out) == expected), f"killed at shard {number}"
    assert len(set(found)) > 5, f"the kills came all at the same stage: {found}"


def test_two_runs_at_once(source, contents, tmp_path: Path):
    """As of a job that is queued again while it still runs."""

    class Slow(RecordSubset):
        """So that nearly always a shard is half written."""

        def __getitem__(self, index):
            time.sleep(0.01)
            return super().__getitem__(index)

    records = Slow(source("refcoco", 60), range(60))
    write_shards(records, tmp_path / "alone", OPTIONS, workers=0)
    expected = contents(tmp_path / "alone")
    for number in range(6):
        out = tmp_path / f"both{number}"
        first = start(records, out)
        time.sleep(0.05 * number)
        second = start(records, out)
        first.join()
        second.join()
        assert (first.exitcode, second.exitcode) == (0, 0) and contents(out) == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux")
def test_workers_end_with_the_run_that_started_them(source, tmp_path: Path):
    """Even when it is killed while they start."""
    for moment in (0.01, 0.02, 0.03, 0.04, 0.06, 0.1):
        process = start(source("refcoco", 120), tmp_path / str(moment))
        time.sleep(moment)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert wait_until(lambda workers=workers: not any(running(pid) for pid in workers), 2)


def running(pid: int) -> bool:
    """Whether a process is there and more than an entry that nobody has asked for yet."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_worker_is_an_error_that_says_so(source, tmp_path: Path):
    class Deadly(type(source())):
        def __getitem__(self, index):
            if index == 7 and multiprocessing.parent_process() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    records = source()
    records.__class__ = Deadly
    from maskcap.errors import ShardError

    with pytest.raises(ShardError, match="a worker process was killed"):
        write_shards(records, tmp_path, OPTIONS)
