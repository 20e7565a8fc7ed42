"""One of two ranks is killed, stopped, stuck or fails in the middle of a run: the other one names it and leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from maskcap.errors import ConfigError
from maskcap.training.callbacks.rank_watch import RankWatch
from maskcap.training.ranks import this_rank
from maskcap.training.watch.ending import EXIT_CODE
from tests.processes import ddp_on_cpu, run_ranks, start_ranks, tiny_run, train


class Accident(pl.Callback):
    """Something happens to rank `rank` before step 2: "kill", "stop", "sleep" for ever, or "raise"."""

    def __init__(self, what: str = "kill", rank: int = 1) -> None:
        self.what, self.rank = what, rank

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Now."""
        if this_rank() != self.rank or trainer.global_step != 2:
            return
        if self.what == "raise":
            raise LookupError("nothing there")
        if self.what == "sleep":
            time.sleep(600)
        time.sleep(1.5)  # so that the others have heard of this step
        os.kill(os.getpid(), signal.SIGKILL if self.what == "kill" else signal.SIGSTOP)


def _run(tmp_path: Path, data: Path, what: str, rank: int, *further: str) -> tuple[list[int | None], dict, str, float]:
    """Exit codes (None: still there, and now killed), failure.json, what the other rank printed, the seconds taken."""
    accident = ["+callbacks.accident._target_=tests.training.watch.test_rank_watch.Accident", "trusted_targets=[tests]"]
    accident += [f"+callbacks.accident.what={what}", f"+callbacks.accident.rank={rank}"]
    quick = ["+callbacks.rank_watch.beat=0.5", "callbacks.rank_watch.rank_timeout=6", "+callbacks.rank_watch.grace=1"]
    overrides = tiny_run(data, *accident, *quick, *further, *ddp_on_cpu(), f"hydra.run.dir={tmp_path / 'run'}")
    began = time.monotonic()
    processes = start_ranks(train, *overrides, world=2, output=tmp_path)
    processes[1 - rank].join(60)
    seconds = time.monotonic() - began
    processes[rank].join(0.1 if what in ("stop", "kill") else 20)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    output = (tmp_path / f"rank{1 - rank}.txt").read_text()
    file = tmp_path / "run" / "failure.json"
    return codes, json.loads(file.read_text()) if file.is_file() else {}, output, seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "fault_scenes"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", ["kill", "stop"])
def test_a_killed_or_stopped_rank_is_named_and_the_other_leaves(
    what: str, rank: int, data: Path, tmp_path: Path
) -> None:
    codes, failure, output, seconds = _run(tmp_path, data, what, rank)
    assert codes[1 - rank] == EXIT_CODE, output[-2000:]
    assert codes[rank] == (-signal.SIGKILL if what == "kill" else None)
    assert (failure["rank"], failure["step"]) == (rank, 2)
    assert failure["fault"] == ("died" if what == "kill" else "silent")
    said = f"error: rank {rank} (host {failure['host']}, pid {failure['pid']}) has "
    assert said + ("died" if what == "kill" else "not answered for") in output
    assert "Traceback" not in output  # the culprit's name, instead of gloo's text
    assert f"rank {rank} (host" in (tmp_path / "run" / "train.log").read_text()
    status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
    assert status == (f"rank 1 {failure['fault']}" if rank == 1 else "running")  # rank 0 writes it, where it lives
    assert seconds < 40


def test_a_rank_that_fails_by_itself_ends_the_other(data: Path, tmp_path: Path) -> None:
    codes, failure, output, _ = _run(tmp_path, data, "raise", 1)
    assert codes == [EXIT_CODE, 1]
    assert failure["fault"] in ("failed", "died") and "LookupError: nothing there" in failure["message"]
    assert "error: rank 1" in output


def test_a_rank_that_is_stuck_is_named_with_every_stack(data: Path, tmp_path: Path) -> None:
    codes, failure, output, _ = _run(tmp_path, data, "sleep", 1, "callbacks.rank_watch.stall_timeout=6")
    assert codes == [EXIT_CODE, EXIT_CODE]
    assert (failure["fault"], failure["rank"]) == ("stuck", 1)
    assert "test_rank_watch.py" in failure["place"]
    assert "most recent call first" in output and "most recent call first" in (tmp_path / "rank1.txt").read_text()


def test_an_undisturbed_run_is_left_alone(data: Path, tmp_path: Path) -> None:
    quick = ["+callbacks.rank_watch.beat=0.1", "callbacks.rank_watch.rank_timeout=10", f"hydra.run.dir={tmp_path}/run"]
    assert run_ranks(train, *tiny_run(data, *quick, *ddp_on_cpu()), world=2, output=tmp_path) == [0, 0]
    assert not (tmp_path / "run" / "failure.json").exists()


def test_times_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="two beats at least"):
        RankWatch(rank_timeout=3, beat=2)
