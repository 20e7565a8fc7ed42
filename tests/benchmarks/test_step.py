"""The step's benchmark at a tiny size: its three ways learn the same, its plain loop is the fit's."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.recipe_step import StepResult, step_recipe, step_shared
from benchmarks.regions import draw_batch
from benchmarks.step_cost import StepCost, Stepper, cost_table, measure, ratios
from benchmarks.timing import Times
from benchmarks.trainer_overhead import FIT, LOOP, fit, measure_overhead, plain_loop
from maskcap.cli.build import quiet_lightning
from maskcap.loops.base import Loop
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.work import Work
from maskcap.training.flops import step_flops, unit_flops
from maskcap.training.module import MaskCaptionModule
from maskcap.training.optimizers import AdamW

LOOPS: dict[str, Loop] = {"m2c": MaskToCaption(weight=0.5), "c2m": CaptionToMask(answer_weight=1.0)}


def gradients(model: MaskCaptionModel) -> dict[str, torch.Tensor]:
    """By parameter; the model's are taken away."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equal(
    one: StepResult, expected: dict[str, torch.Tensor], other: StepResult, model: MaskCaptionModel
) -> None:
    """Losses and the model's gradients, relative 1e-4; a gradient's to the largest number of its tensor."""
    for name, loss in one.losses.items():
        torch.testing.assert_close(other.losses[name], loss, rtol=1e-4, atol=1e-6)
    found = gradients(model)
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1e-4 * largest)  # below that there is only rounding
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("regions", [1, 3])
def test_the_recipe_learns_what_tree_learns(tiny_model: MaskCaptionModel, regions: int) -> None:
    """A fair race: only the sharing differs, and the work shows how."""
    batch = draw_batch(2, regions, 64, sentences=2)
    tree = step_shared(tiny_model, LOOPS, batch, "tree")
    expected = gradients(tiny_model)
    none = step_shared(tiny_model, LOOPS, batch, "none")
    assert_equal(tree, expected, none, tiny_model)
    recipe = step_recipe(tiny_model, LOOPS, batch)
    assert_equal(tree, expected, recipe, tiny_model)
    count = 2 * regions
    assert (recipe.work.vlm_images, recipe.work.sam_images) == (2 * count, count)
    assert [(work.vlm_images, work.sam_images) for work in (none.work, tree.work)] == [(2, 2), (2, 2)]
    for name in ("answers", "masks"):
        assert getattr(recipe.work, name) == getattr(none.work, name) == getattr(tree.work, name)
    prefix = 4 * 4 + 2  # <img>, the image's tokens, </img>; `none` reads them once more an image for the grounding map
    assert recipe.work.tokens == tree.work.tokens + (2 * count - 2) * prefix == none.work.tokens - 2 * prefix


def test_in_parts_the_recipe_learns_the_same(tiny_model: MaskCaptionModel) -> None:
    """Up to the averaging: so with captions of one length, and without the contrast between a part's regions."""
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, grounding=False)
    batch = replace(draw_batch(2, 3, 64), caption=["red"] * 6)
    whole = step_recipe(model, LOOPS, batch)
    expected = gradients(model)
    parts = step_recipe(model, LOOPS, batch, at_once=4)
    assert_equal(whole, expected, parts, model)
    assert parts.work == replace(whole.work, slots=parts.work.slots)


def test_drawn_regions_are_the_demos() -> None:
    batch = draw_batch(2, 10, 128, sentences=3)
    assert batch.image1.shape == (2, 3, 128, 128) and batch.mask1.shape == (20, 128, 128)
    assert batch.images_of(range(20)) == batch.region_image.tolist() == [0] * 10 + [1] * 10
    covered = batch.mask1.mean(dim=(1, 2)) * 256
    assert 2 < covered.min() and covered.max() < 25
    for phrase, caption in zip(batch.phrase, batch.caption, strict=True):
        assert phrase and caption and caption.startswith(phrase) and caption.count(" and ") == 2
    again = draw_batch(2, 10, 128, sentences=3)
    assert again.caption == batch.caption and torch.equal(again.image1, batch.image1)


def test_fit_and_plain_loop_take_the_same_steps(tiny_model: MaskCaptionModel, tmp_path: Path) -> None:
    rate = 1e-2
    module = MaskCaptionModule(tiny_model, LOOPS, optimizer=AdamW(lr=rate), meteor=False)
    twin = copy.deepcopy(module)
    batches = [draw_batch(2, 2, 64, seed=seed) for seed in range(3)]
    with quiet_lightning():
        assert len(fit(module, batches, tmp_path).taken) == 3
    assert len(plain_loop(twin, batches).taken) == 3
    by_hand = dict(twin.model.named_parameters())
    for name, parameter in module.model.named_parameters():  # three steps move it by up to three rates
        torch.testing.assert_close(by_hand[name], parameter, rtol=0, atol=0.01 * rate, msg=name)


def test_the_first_turn_and_each_first_step_are_not_counted(tiny_model: MaskCaptionModel) -> None:
    times = measure_overhead(tiny_model, draw_batch(1, 1, 64), rounds=1, steps=1)
    assert set(times) == {FIT, LOOP}
    assert all(len(spent.processor) == 1 and min(spent.processor) > 0 for spent in times.values())


def costs_of(**milliseconds: float) -> dict[str, StepCost]:
    work = Work(vlm_images=4, sam_images=4, tokens=1000, answers=20, masks=8, pairs=5000)
    return {
        way: StepCost(Times([1.0], [spent / 1000]), 8, work, 3 * 2**30, on_host=False)
        for way, spent in milliseconds.items()
    }


def test_ratios_and_table_by_hand(tiny_model: MaskCaptionModel) -> None:
    costs = {8: costs_of(recipe=900, none=300, tree=100), 16: costs_of(tree=200)}
    assert ratios(costs) == pytest.approx({"tree_vs_none_k8": 9, "tree_vs_shared_none_k8": 3})
    units = unit_flops(tiny_model)
    flops = step_flops(units, costs[16]["tree"].work).total
    lines = cost_table(costs, units, peak_flops=10 * flops).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + 6
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "K=8 recipe", "900", "8.9", "1111", "4", "4", "9.00×", "11.1%", "3.0",
    ]  # fmt: skip
    assert "K=16 none" in lines[6] and "too little memory" in lines[6] and "50.0%" in lines[7]
    figures = step.tree_figures(costs, units, 10 * flops)
    assert figures["mfu_k16"] == pytest.approx(0.5) and figures["mfu_k8"] == pytest.approx(1)
    assert figures["regions_per_s_k16"] == pytest.approx(40) and figures["tokens_per_s_k8"] == pytest.approx(1e4)
    assert figures["peak_gib_k8"] == 3


def test_a_gpus_run_as_far_as_a_cpu_can_go(tiny_model: MaskCaptionModel) -> None:
    """bfloat16 autocast, and a mask for FlexAttention's rows where the others take SDPA."""
    stepper = Stepper(tiny_model, "sdpa", mixed=True)
    before = tiny_model.region_marker.detach().clone()
    costs = measure(stepper, draw_batch(2, 2, 64), rounds=1)
    assert set(costs) == {"recipe", "none", "tree"} and all(cost.seconds > 0 for cost in costs.values())
    assert not torch.equal(tiny_model.region_marker, before)


def test_each_figure_is_printed_and_written(
    tiny_model: MaskCaptionModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(step, "build_model", lambda *_, **__: tiny_model)  # smaller than the demo's, as real
    options = ["--parts", "steps", "trainer", "--regions", "1", "2", "--images", "1", "--rounds", "1"]
    options += ["--trainer-steps", "1", "--peak-flops", "1e12", "--profile", "--json", str(tmp_path / "out.json")]
    figures = step.main(options)
    names = {f"{name}_k{k}" for name in ("tree_vs_none", "tree_vs_shared_none") for k in (1, 2)} | {"trainer_overhead"}
    assert json.loads((tmp_path / "out.json").read_text()) == figures and set(figures) == names
    assert all(figure > 0 for figure in figures.values())
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, "K=2 recipe", "MFU", "Self CPU"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        step.main(["--shapes", "1b"])
    assert "torch finds no GPU here: use --device cpu" in capsys.readouterr().err


def test_names_of_other_runs_end_with_what_they_are() -> None:
    assert step.Run("tiny", "cpu").ending == ""
    assert step.Run("tiny", "cuda").ending == "_tiny_cuda" and step.Run("2b", "cuda").ending == "_2b_cuda"
    assert step.Run("1b", "cuda", "adapters").ending == "_1b_cuda_adapters"
