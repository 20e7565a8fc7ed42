"""A data worker that is killed in the middle of a run ends it within seconds, by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from maskcap.data.workers import worker_death
from tests.processes import run_ranks, tiny_run, train


class KillWorker(pl.Callback):
    """Kills the first worker of the training loader after the second step; says its process id."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Once."""
        if trainer.global_step == 2:
            loader: Any = trainer.train_dataloader
            pid = loader._loader._iterator._workers[0].pid
            print(f"killed {pid}", flush=True)
            os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_ends_the_run_by_name(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    kill = ["+callbacks.kill._target_=tests.data.test_workers.KillWorker", "trusted_targets=[tests]"]
    data, run = tmp_path_factory.getbasetemp() / "fault_scenes", f"hydra.run.dir={tmp_path / 'run'}"
    began = time.monotonic()
    codes = run_ranks(train, *tiny_run(data, *kill, "data.num_workers=2", run), output=tmp_path)
    said = (tmp_path / "rank0.txt").read_text()
    assert codes == [2], said[-2000:]
    assert time.monotonic() - began < 30
    pid = said.split("killed ")[1].split()[0]
    assert f"error: a data worker (pid {pid}) was killed by signal SIGKILL: usually the system" in said
    assert "num_workers" in said and "Traceback" not in said


def test_causes_are_told_from_each_other() -> None:
    full = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that workers are out of memory."
    assert "pid 7) was killed by signal SIGBUS: shared memory is full" in str(worker_death(RuntimeError(full)))
    ended = "DataLoader worker (pid 8) exited unexpectedly with exit code 1. Details are lost."
    assert "pid 8) ended by itself: see its own message" in str(worker_death(RuntimeError(ended)))
    assert "pid 8, 9) ended" in str(worker_death(RuntimeError("DataLoader worker (pid(s) 8, 9) exited unexpectedly")))
    assert worker_death(RuntimeError("CUDA error: killed")) is None


def test_a_death_that_became_another_error_is_recognised() -> None:
    """As `inspect` makes a TypeError of whatever its look at a function raises."""
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError as death:
            raise TypeError("unsupported callable") from death
    except TypeError as error:
        assert "pid 7) was killed by signal SIGKILL" in str(worker_death(error))
