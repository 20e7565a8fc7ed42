"""The largest batch that fits, found before step 0 without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcap.training.callbacks.batch_size_search import largest
from tests.processes import run_ranks, tiny_run, train
from tests.training.faults.broken import prompts_only

WATCH = "+callbacks.weights._target_=tests.training.faults.test_nonfinite.Weights"


def _run(folder: Path, data: Path, *settings: str) -> list[list[float]]:
    """The run's sums of weights, a line a step."""
    faulty = [*prompts_only("NoMemory", "rank=0", "fit=5"), WATCH, "trainer.max_epochs=1"]
    codes = run_ranks(train, *tiny_run(data, *faulty, *settings, f"hydra.run.dir={folder / 'run'}"), output=folder)
    assert codes == [0], (folder / "rank0.txt").read_text()[-2000:]
    return [json.loads(line) for line in (folder / "run" / "weights0.jsonl").read_text().splitlines()]


def test_the_size_that_fits_is_used_and_nothing_else_changes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.getbasetemp() / "fault_scenes"
    # two regions an image, and five that fit: from eight images down to two, from one up to two
    down = _run(tmp_path / "down", data, "trainer.find_batch_size=true", "data.batch_size=8")
    assert "2 images on each rank fit (data.batch_size was 8)" in (tmp_path / "down" / "rank0.txt").read_text()
    up = _run(tmp_path / "up", data, "trainer.find_batch_size=true", "data.batch_size=1")
    assert down == up == _run(tmp_path / "given", data, "data.batch_size=2") and len(up) == 6


def test_sizes_are_doubled_and_halved() -> None:
    assert [largest(lambda size: size <= 5, start, 100) for start in (1, 3, 8, 100)] == [4, 3, 4, 3]
    assert largest(lambda size: True, 4, 30) == 16 and largest(lambda size: True, 64, 30) == 30
    assert largest(lambda size: False, 8, 100) == 0
