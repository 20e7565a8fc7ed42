"""Out of memory on one of two ranks: the batch is named, or the step made in parts with the whole batch's losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.errors import OutOfMemory
from maskcap.training.faults.memory import batch_named, is_out_of_memory
from maskcap.training.used_images import halves
from tests.processes import ddp_on_cpu, run_ranks, tiny_run, train
from tests.training.faults.broken import prompts_only

WATCH = "+callbacks.weights._target_=tests.training.faults.test_nonfinite.Weights"


def _run(folder: Path, data: Path, *settings: str, policy: str = "split", world: int = 2) -> list[int | None]:
    """Six steps with NoMemory; exit codes."""
    faulty = [*prompts_only("NoMemory", *settings), WATCH, "trainer.max_epochs=1"]
    faulty += [f"module.on_out_of_memory={policy}", f"hydra.run.dir={folder / 'run'}"]
    ranks = ddp_on_cpu(2) if world > 1 else ["data.batch_size=4"]
    overrides = [*tiny_run(data, "data.samples_per_epoch=24"), *ranks, *faulty]
    return run_ranks(train, *overrides, world=world, output=folder)


def _weights(folder: Path, rank: int = 0) -> list[list[float]]:
    return [json.loads(line) for line in (folder / "run" / f"weights{rank}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "fault_scenes"


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_split_on_one_rank_learns_what_the_whole_batch_does(where: str, data: Path, tmp_path: Path) -> None:
    settings = ["first=2", f"in_backward={where == 'backward'}"]
    assert _run(tmp_path / "parts", data, *settings) == [0, 0], (tmp_path / "parts" / "rank1.txt").read_text()[-3000:]
    assert _run(tmp_path / "whole", data, "first=99", policy="raise") == [0, 0]
    first, second, whole = _weights(tmp_path / "parts"), _weights(tmp_path / "parts", 1), _weights(tmp_path / "whole")
    assert first == second
    for part, all_at_once in zip(
        first, whole, strict=True
    ):  # the sums of weights, and of AdamW's averages of gradients
        assert part == pytest.approx(all_at_once, rel=1e-3)
    log = (tmp_path / "parts" / "rank0.txt").read_text()
    assert "out of memory on rank 1, in a batch of 2 images at 64×64 px with 4 regions" in log
    assert "made again in 1, 4 parts on the ranks" in log


def test_a_region_that_does_not_fit_alone_is_named_on_both_ranks(data: Path, tmp_path: Path) -> None:
    assert _run(tmp_path, data, "fit=0") == [2, 2]
    for rank in (0, 1):
        text = (tmp_path / f"rank{rank}.txt").read_text()
        assert "out of memory on rank 1" in text and "even alone, in a batch of 1 images" in text


def test_raise_names_the_batch_and_the_rank(data: Path, tmp_path: Path) -> None:
    codes = _run(tmp_path, data, "in_backward=true", policy="raise")
    text = (tmp_path / "rank1.txt").read_text()
    assert codes[1] == 2 and codes[0] not in (0, None), text
    assert "error: out of memory on rank 1 (peak" in text and "64×64 px with 4 regions: " in text
    assert "module.on_out_of_memory=split" in text


def test_halves_are_images_then_regions(tiny_batch: Batch) -> None:
    first, second = halves(tiny_batch)
    assert (first.keys, second.keys) == ([tiny_batch.keys[0]], [tiny_batch.keys[1]])
    one, two = halves(first)
    assert (one.region_ids, two.region_ids) == (["a"], ["b"]) and one.mask1.shape[0] == 1 and halves(two) == []
    assert torch.equal(two.mask1, tiny_batch.mask1[1:2]) and two.keys == first.keys


def test_other_errors_pass(tiny_batch: Batch) -> None:
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(RuntimeError, match="else"), batch_named(tiny_batch):
        raise RuntimeError("something else")
    with pytest.raises(OutOfMemory, match="set/train/1 .64×64 px, 1 regions."), batch_named(tiny_batch):
        raise torch.OutOfMemoryError("full")
