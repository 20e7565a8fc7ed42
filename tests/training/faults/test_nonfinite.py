"""Steps that are not finite: skipped or the end, on all ranks alike, with the samples written down."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from maskcap.errors import ConfigError, NonFiniteError
from maskcap.training.faults.nonfinite import NonFiniteGuard, gradient_norm
from tests.processes import ddp_on_cpu, run_ranks, tiny_run, train
from tests.training.faults.broken import prompts_only

WATCH = "+callbacks.weights._target_=tests.training.faults.test_nonfinite.Weights"


class Weights(pl.Callback):
    """Writes a line a step: the sum of all weights, of all of AdamW's averages, and the rank."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """After the optimizer's step."""
        weights = sum(float(p.detach().double().abs().sum()) for p in pl_module.parameters())
        states = trainer.optimizers[0].state.values()
        averages = sum(float(state["exp_avg"].double().abs().sum()) for state in states)
        with (Path(trainer.default_root_dir) / f"weights{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([weights, averages]) + "\n")


def _lines(file: Path) -> list:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("target", ["BadLoss", "BadGradient"])
def test_one_rank_of_two_is_not_finite_and_both_skip_the_step(
    target: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data, run = tmp_path_factory.getbasetemp() / "fault_scenes", tmp_path / "run"
    faulty = [*prompts_only(target), WATCH, "trainer.max_epochs=1", f"hydra.run.dir={run}"]
    codes = run_ranks(train, *tiny_run(data, *faulty, *ddp_on_cpu()), world=2, output=tmp_path)
    assert codes == [0, 0], (tmp_path / "rank0.txt").read_text()[-2000:]
    first, second = _lines(run / "weights0.jsonl"), _lines(run / "weights1.jsonl")
    assert first == second and len(first) == 6
    assert first[2] == first[1] and first[3] != first[2]  # the third step changed neither weights nor AdamW
    lines = _lines(run / "nonfinite.jsonl")
    assert [line["rank"] for line in lines] == [0, 1] and all(line["step"] == 2 and line["skipped"] for line in lines)
    assert all(len(line["keys"]) == 1 for line in lines) and lines[0]["keys"] != lines[1]["keys"]
    assert isinstance(lines[0]["loss"], float)
    assert isinstance(lines[1]["loss"], str if target == "BadLoss" else float)
    assert all(line["gradient_count"] > 0 for line in lines)  # of both: they were averaged
    log = (tmp_path / "rank0.txt").read_text()
    said = f"rank 1 is not finite on {lines[1]['keys'][0]}" if target == "BadLoss" else "gradients are not finite"
    assert said in log and "the step is skipped" in log


def test_too_many_in_a_row_end_the_run_on_both_ranks(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data, run = tmp_path_factory.getbasetemp() / "fault_scenes", tmp_path / "run"
    faulty = [*prompts_only("BadLoss", "last=99"), "module.max_nonfinite=2", f"hydra.run.dir={run}"]
    codes = run_ranks(train, *tiny_run(data, *faulty, *ddp_on_cpu()), world=2, output=tmp_path)
    assert codes == [2, 2]
    assert "2 steps in a row (module.max_nonfinite=2)" in (tmp_path / "rank0.txt").read_text()
    assert [line["skipped"] for line in _lines(run / "nonfinite.jsonl")] == [True, True, False, False]


def _parameter(gradient: float) -> dict[str, nn.Parameter]:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, gradient])
    return {"a": parameter}


def test_good_steps_are_kept_and_end_a_row_of_bad_ones(tmp_path: Path) -> None:
    guard, file = NonFiniteGuard("skip", most=2), tmp_path / "nonfinite.jsonl"
    for step, (gradient, kept) in enumerate([(4.0, True), (torch.inf, False), (4.0, True), (torch.nan, False)]):
        parameters = _parameter(gradient)
        guard.note(["k"], torch.tensor(1.0), {})
        assert guard.keeps(gradient_norm(parameters.values()), parameters, step=step, file=file) is kept
    assert (guard.in_a_row, guard.total) == (1, 2)
    assert [line["gradients"] for line in _lines(file)] == [["a"], ["a"]]
    assert gradient_norm(_parameter(4.0).values()) == 5.0


def test_raise_names_sample_and_part_and_the_fix(tmp_path: Path) -> None:
    guard = NonFiniteGuard("raise")
    guard.note(["good"], torch.tensor(1.0), {})
    guard.note(["bad"], torch.tensor(torch.inf), {"cycle/kl": torch.tensor(torch.inf), "cycle/ce": torch.tensor(1.0)})
    with pytest.raises(NonFiniteError, match=r"step 7: the loss \(cycle/kl\) of rank 0 is not finite on bad; .*lr"):
        guard.keeps(gradient_norm(_parameter(1.0).values()), _parameter(1.0), step=7, file=tmp_path / "n.jsonl")


def test_a_scalers_overflow_is_left_to_the_scaler() -> None:
    guard = NonFiniteGuard("raise")
    guard.note(["k"], torch.tensor(1.0), {})
    assert guard.keeps(None, _parameter(torch.inf), step=0, file=None)


def test_a_policy_that_never_skips_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_nonfinite=0: at least 1"):
        NonFiniteGuard("skip", 0)
