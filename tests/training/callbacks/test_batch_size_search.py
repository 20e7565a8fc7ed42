"""The largest batch that fits, found before step 0 without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest

from maskcap.errors import ConfigError
from maskcap.training.callbacks.batch_size_search import BatchSizeSearch, largest
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
    file = tmp_path / "up" / "run" / "batch_size.json"
    assert json.loads(file.read_text()) == {"batch_size": 2, "processes": 1}


def test_a_run_that_goes_on_takes_the_size_that_it_found(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.getbasetemp() / "fault_scenes"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "batch_size.json").write_text('{"batch_size": 1, "processes": 1}')
    steps = _run(tmp_path, data, "trainer.find_batch_size=true", "data.batch_size=8", "checkpoint=auto")
    assert "1 images on each rank, as " in (tmp_path / "rank0.txt").read_text() and len(steps) == 12


class NoCopyYet(pl.Callback):
    """Checks that the search has left the cycle without its frozen copy."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Says so."""
        print("copies before the first step:", pl_module.loops["cycle"].state_dict(), flush=True)


def test_the_cycles_copy_is_not_of_the_search(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.getbasetemp() / "fault_scenes"
    cycle = ["loops=cycle", "loops.cycle.reference=copy", "loops.cycle.start=0.5", "trainer.find_batch_size=true"]
    cycle += ["trusted_targets=[tests]", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    cycle += [f"+callbacks.copy._target_={NoCopyYet.__module__}.NoCopyYet", "data.samples_per_epoch=4"]
    assert run_ranks(train, *tiny_run(data, *cycle), output=tmp_path) == [0], (tmp_path / "rank0.txt").read_text()
    assert "copies before the first step: {}" in (tmp_path / "rank0.txt").read_text()


def test_sharded_weights_are_refused() -> None:
    sharding: Any = SimpleNamespace(strategy=SimpleNamespace(shard_weights=True))
    with pytest.raises(ConfigError, match="does not go with sharded weights"):
        BatchSizeSearch(enabled=True).setup(sharding, None, "fit")


def test_sizes_are_doubled_and_halved() -> None:
    assert [largest(lambda size: size <= 5, start, 100) for start in (1, 3, 8, 100)] == [4, 3, 4, 3]
    assert largest(lambda size: True, 4, 30) == 16 and largest(lambda size: True, 64, 30) == 30
    assert largest(lambda size: False, 8, 100) == 0
