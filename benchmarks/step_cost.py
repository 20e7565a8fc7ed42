"""What a training step costs in each of the three ways of `recipe_step.py`: time, memory, FLOPs; and its tables."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.recipe_step import StepResult, step_recipe, step_shared
from benchmarks.timing import Times, table, take_turns
from maskcap.data.batch import Batch
from maskcap.loops.base import Loop
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.tree_attention import Attention, choose_attention
from maskcap.models.work import Work
from maskcap.training.flops import UnitFlops, step_flops
from maskcap.training.optimizers import AdamW

RECIPE, NONE, TREE = "recipe", "none", "tree"
WAYS = (RECIPE, NONE, TREE)


@dataclass(frozen=True)
class StepCost:
    """Of one way of a step: its times in seconds, regions, work, and the most bytes that the device held, 0 on a CPU.

    on_host: a CPU's steps are measured in processor time, a GPU's by the clock.
    """

    times: Times
    regions: int
    work: Work
    peak: int
    on_host: bool

    @property
    def seconds(self) -> float:
        """The median."""
        return self.times.processor_median if self.on_host else self.times.clock_median


class Stepper:
    """A model with its loops and optimizer, for steps on one device.

    mixed: forwards under bfloat16 autocast. attention: of `tree`; the others take SDPA, on whose rows there is nothing
    to skip. The learning rate is too small to change what is measured.
    """

    def __init__(self, model: MaskCaptionModel, attention: Attention = "auto", mixed: bool = False) -> None:
        self.model = model
        self.loops: dict[str, Loop] = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
        self.device = next(model.parameters()).device
        self.optimizer = AdamW(lr=1e-6).build(model)
        self.attention: Attention = attention
        self.mixed = mixed

    def step(self, way: str, batch: Batch) -> StepResult:
        """Forward, backward and the optimizer's step; returns when the device is done."""
        self.optimizer.zero_grad()
        if way == RECIPE:  # as many images through the encoders at once as the other ways have
            result = step_recipe(self.model, self.loops, batch, len(batch.keys), self.mixed)
        else:
            result = step_shared(self.model, self.loops, batch, "tree" if way == TREE else "none", self.mixed)
        self.finish()
        return result

    def finish(self) -> None:
        """The optimizer's step; returns when the device is done."""
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def choose_attention(self, way: str) -> None:
        """The language model's, for this way."""
        choose_attention(self.model.vlm.language_model, self.attention if way == TREE else "sdpa")


def measure(stepper: Stepper, batch: Batch, rounds: int, ways: Sequence[str] = WAYS) -> dict[str, StepCost]:
    """Time the ways on one batch, taking turns; a way for which the device has too little memory is left out."""
    batch = batch.to(stepper.device)
    works: dict[str, Work] = {}
    peaks: dict[str, int] = {}

    def case(way: str) -> Callable[[], None]:
        def step() -> None:
            stepper.choose_attention(way)
            works[way] = stepper.step(way, batch).work

        return step

    for way in ways:
        if (peak := _peak(case(way), stepper)) is not None:
            peaks[way] = peak
    times = take_turns({way: case(way) for way in peaks}, rounds)
    on_host = stepper.device.type == "cpu"
    return {way: StepCost(times[way], len(batch.region_ids), works[way], peaks[way], on_host) for way in peaks}


def _peak(step: Callable[[], None], stepper: Stepper) -> int | None:
    """Bytes at the peak of a second step (the first one makes the optimizer's state), None when they are too many."""
    if stepper.device.type != "cuda":
        return 0
    try:
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        stepper.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return None


def ratios(costs: Mapping[int, Mapping[str, StepCost]]) -> dict[str, float]:
    """Times faster that `tree` is, by name: `tree_vs_none_k8` than the recipe, which the project's goals call packing
    none; `tree_vs_shared_none_k8` than separate sequences on shared encodings."""
    found = {}
    for regions, of_way in costs.items():
        for name, way in (("tree_vs_none", RECIPE), ("tree_vs_shared_none", NONE)):
            if TREE in of_way and way in of_way:
                found[f"{name}_k{regions}"] = of_way[way].seconds / of_way[TREE].seconds
    return found


def cost_table(
    costs: Mapping[int, Mapping[str, StepCost]], units: UnitFlops | None = None, peak_flops: float | None = None
) -> str:
    """A line for each number of regions an image and each way; MFU and memory where they are known."""
    some = next(cost for of_way in costs.values() for cost in of_way.values())
    extra = [name for name, known in (("MFU", units and peak_flops), ("peak, GiB", some.peak)) if known]
    rows = []
    for regions, of_way in costs.items():
        for way in WAYS:
            row = [f"K={regions} {way}"]
            if way in of_way:
                row += _cells(of_way[way], of_way.get(TREE))
                row += [_mfu(of_way[way], units, peak_flops)] if units is not None and peak_flops else []
                row += [f"{of_way[way].peak / 2**30:.1f}"] if some.peak else []
            else:
                row += ["too little memory", *[""] * (5 + len(extra))]
            rows.append(row)
    header = ["a step", "ms", "regions/s", "LM tokens/s", "ViT images", "SAM2 images", "tree is faster", *extra]
    return table(header, rows)


def _cells(cost: StepCost, tree: StepCost | None) -> list[str]:
    seconds, work = cost.seconds, cost.work
    faster = "" if tree is None else f"{seconds / tree.seconds:.2f}×"
    cells = [f"{1000 * seconds:.0f}", f"{cost.regions / seconds:.1f}", f"{work.tokens / seconds:.0f}"]
    return [*cells, str(work.vlm_images), str(work.sam_images), faster]


def _mfu(cost: StepCost, units: UnitFlops, peak_flops: float) -> str:
    return f"{step_flops(units, cost.work).total / cost.seconds / peak_flops:.1%}"
