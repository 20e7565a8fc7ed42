"""Runs that are stopped at any step, killed or asked to, and go on: the weights are those of a run nobody stopped.

The whole matrix, every step by itself, takes a quarter of an hour: `pytest -m exhaustive tests/training/`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import pytest

from tests.processes import ddp_on_cpu, run_ranks, tiny_run, train
from tests.training.interruptions import interrupt, weights_of

STEPS = 12
EVERY_STEP = "callbacks.stop.every_minutes=0"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The weights of whole runs by the number of ranks, made when asked for."""
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


class Undisturbed(dict[int, str]):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def data(self) -> Path:
        self[1]  # draws the scenes
        return self.folder / "data"

    def __missing__(self, world: int) -> str:
        run = self.folder / f"ranks{world}"
        codes = run_ranks(train, *overrides(self.folder / "data", run, world), world=world, output=run)
        assert codes == [0] * world, (run / "rank0.txt").read_text()
        self[world] = weights_of(run)
        return self[world]


def overrides(data: Path, run: Path, world: int, *further: str, workers: int = 0) -> list[str]:
    ranks = ddp_on_cpu() if world > 1 else []
    return tiny_run(data, f"hydra.run.dir={run}", f"data.num_workers={workers}", "logger=csv", *ranks, *further)


def stop_at(run: Path, data: Path, world: int, step: int, number: Signals, workers: int) -> None:
    """Go on in `run` and stop in `step`: killed in the middle of it, or asked to, on the last rank alone."""
    rank = None if number == SIGKILL else world - 1
    stop = interrupt(number, step, rank=rank)
    given = overrides(data, run, world, "checkpoint=auto", EVERY_STEP, *stop, workers=workers)
    codes = run_ranks(train, *given, world=world, output=run)
    last = number == SIGTERM and step == STEPS  # nothing is left to do
    if number == SIGKILL:
        assert -SIGKILL in codes and 0 not in codes, said(run)  # a rank may meet the other's death before its own
    else:
        assert codes == [0 if last else 128 + SIGTERM] * world, said(run)


def finish(run: Path, data: Path, world: int, workers: int) -> str:
    codes = run_ranks(train, *overrides(data, run, world, "checkpoint=auto", workers=workers), world=world, output=run)
    assert codes == [0] * world, said(run)
    return weights_of(run)


def said(run: Path) -> str:
    return "".join(file.read_text()[-3000:] for file in sorted(run.glob("rank*.txt")))


def test_one_rank_stopped_at_every_step(undisturbed, tmp_path):
    """Killed and asked to by turns, with and without workers: each stop goes on from the one before."""
    for step in range(1, STEPS + 1):
        number = SIGTERM if step % 2 else SIGKILL
        stop_at(tmp_path, undisturbed.data, 1, step, number, workers=0 if step in (4, 5, 10) else 2 * (step % 3 == 0))
    assert finish(tmp_path, undisturbed.data, 1, workers=0) == undisturbed[1]


def test_two_ranks_stopped_now_and_then(undisturbed, tmp_path):
    for step, number, workers in ((6, SIGTERM, 0), (9, SIGKILL, 2)):  # 6 is an epoch's last
        stop_at(tmp_path, undisturbed.data, 2, step, number, workers)
    assert finish(tmp_path, undisturbed.data, 2, workers=0) == undisturbed[2]


def test_a_killed_run_loses_no_more_than_its_last_save(undisturbed, tmp_path):
    """Saved at the epoch's end alone: step 9 dies, 7 and 8 are repeated."""
    stop = interrupt(SIGKILL, 9)
    codes = run_ranks(train, *overrides(undisturbed.data, tmp_path, 1, *stop), output=tmp_path)
    assert codes == [-SIGKILL]
    assert finish(tmp_path, undisturbed.data, 1, workers=0) == undisturbed[1]
    steps = [line.split(",")[-1] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert len(steps) > STEPS


@pytest.mark.exhaustive
@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("number", [SIGKILL, SIGTERM])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_by_itself(undisturbed, tmp_path, step, number, world, workers):
    stop_at(tmp_path, undisturbed.data, world, step, number, workers)
    assert finish(tmp_path, undisturbed.data, world, workers) == undisturbed[world]
    shutil.rmtree(tmp_path, ignore_errors=True)  # 45 MB of checkpoints
