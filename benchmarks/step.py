"""`python -m benchmarks.step`: what a training step costs when an image's regions share its encodings and its reading.

On a CPU with the demo's models: forward of both loops, backward and optimizer step with K regions an image, in three
ways (recipe, none, tree: see recipe_step.py); what Trainer.fit adds to a step; the memory of the vocabulary head. Where
there is a GPU, the step also at the shapes of InternVL3-1B and -2B with SAM2.1-large, random weights, in bfloat16.
Nothing is passed or failed here.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.cycle_cost import cycle_ratios, cycle_table, measure_cycle
from benchmarks.head import head_ratios, head_table, measure_head
from benchmarks.regions import draw_batch
from benchmarks.shapes import NAMES, Trained, build_model
from benchmarks.step_cost import NONE, RECIPE, TREE, StepCost, Stepper, cost_table, measure, ratios
from benchmarks.timing import finish, table
from benchmarks.trainer_overhead import FIT, LOOP, measure_overhead
from maskcap.data.batch import Batch
from maskcap.training.flops import UnitFlops, step_flops, unit_flops
from maskcap.training.peak_flops import peak_flops

PARTS = ("steps", "cycle", "trainer", "head")
MEANING = f"""{RECIPE}: the published recipe, which the project's goals call packing none. Every region is two samples,
    one a direction; each sample encodes its image anew and is a sequence of its own.
{NONE}: each image is encoded once, each sample is a sequence of its own.
{TREE}: each image is encoded once and read once, with all its samples.
tree_vs_none_k… = regions/s of {TREE} ÷ {RECIPE}; tree_vs_shared_none_k… = regions/s of {TREE} ÷ {NONE}."""


@dataclass(frozen=True)
class Run:
    """One model on one device."""

    shapes: str
    device: str
    trained: Trained = "all"

    @property
    def ending(self) -> str:
        """What its names end with; nothing for the demo's models on a CPU."""
        if self == DEMO:
            return ""
        return f"_{self.shapes}_{self.device}" + ("" if self.trained == "all" else f"_{self.trained}")


DEMO = Run("tiny", "cpu")


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Build, measure, print; returns the figures that --json writes."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    if "steps" in options.parts:
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n{MEANING}")
        for run in _runs(options):
            figures |= _measure_run(run, options)
    if "cycle" in options.parts:
        figures |= _measure_cycle(options)
    if "trainer" in options.parts:
        figures |= _measure_trainer(options)
    if "head" in options.parts:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            costs = measure_head(options.head_tokens, device=device)
            print(f"\nthe head on {device}\n\n" + head_table(costs))
            ending = "" if device == "cpu" else f"_{device}"
            figures |= {f"{name}{ending}": ratio for name, ratio in head_ratios(costs).items()}
    return finish(figures, options.json)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, help="write the figures to this file")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    add("--shapes", nargs="+", choices=NAMES, help="default: tiny, and 1b and 2b where there is a GPU")
    add("--device", choices=("cpu", "cuda"), help="default: cpu for tiny, cuda for the others")
    add("--trained", nargs="+", choices=("all", "adapters"), default=("all", "adapters"), help="of 1b and 2b")
    add("--regions", nargs="+", type=int, metavar="K", help="an image (default: 1 2 4 8 16; on a GPU 1 8 16)")
    add("--images", type=int, default=4, help="of a step (default: 4)")
    add("--rounds", type=int, default=4, help="turns of each way (default: 4)")
    add("--trainer-steps", type=int, default=10, help="of each turn of Trainer.fit (default: 10)")
    add("--head-tokens", nargs="+", type=int, metavar="N", default=(2048,), help="answer tokens (default: 2048)")
    add("--attention", choices=("auto", "sdpa", "flex"), default="auto", help="of the language model, for tree")
    add("--compile", action="store_true", help="torch.compile of the stable parts")
    add("--checkpointing", nargs="+", default=(), metavar="PART", help="parts that keep no activations")
    add("--peak-flops", type=float, help="of the device, for MFU (default: from the table in training/peak_flops.py)")
    add("--profile", action="store_true", help="also the kernels that tree's time goes to, at the largest K")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and any(run.device == "cuda" for run in _runs(options)):
        parser.error("torch finds no GPU here: use --device cpu (for 1b and 2b a step then takes minutes)")
    return options


def _runs(options: argparse.Namespace) -> list[Run]:
    shapes = options.shapes or (NAMES if torch.cuda.is_available() else ["tiny"])
    runs = []
    for name in shapes:
        device = options.device or ("cpu" if name == "tiny" else "cuda")
        runs += [Run(name, device)] if name == "tiny" else [Run(name, device, trained) for trained in options.trained]
    return runs


def _measure_run(run: Run, options: argparse.Namespace) -> dict[str, float]:
    on_gpu = run.device == "cuda"
    if on_gpu:  # the last run's model may still be held by cycles
        gc.collect()
        torch.cuda.empty_cache()
    parts = {"compile": options.compile, "activation_checkpointing": options.checkpointing}
    model = build_model(run.shapes, run.device, run.trained, **parts)
    units = unit_flops(model)
    stepper = Stepper(model, options.attention, mixed=run != DEMO)
    side, sentences = (128, 1) if run.shapes == "tiny" else (1024, 3)
    numbers = options.regions or ([1, 8, 16] if on_gpu else [1, 2, 4, 8, 16])
    batches = {regions: draw_batch(options.images, regions, side, sentences) for regions in numbers}
    costs = {regions: measure(stepper, batch, options.rounds) for regions, batch in batches.items()}
    peak = options.peak_flops or (peak_flops(torch.cuda.get_device_name(), "bf16-mixed") if on_gpu else None)
    trained = "" if run.shapes == "tiny" else f", {run.trained} trained"
    print(f"\n{run.shapes} on {run.device}{trained}: {options.images} images a step, {options.rounds} rounds\n")
    print(cost_table(costs, units, peak))
    if options.profile:
        print("\n" + _profile(stepper, batches[max(batches)]))
    figures = ratios(costs) | (tree_figures(costs, units, peak) if on_gpu else {})
    return {f"{name}{run.ending}": figure for name, figure in figures.items()}


def tree_figures(costs: Mapping[int, Mapping[str, StepCost]], units: UnitFlops, peak: float | None) -> dict[str, float]:
    """Of `tree`, by name: `regions_per_s_k8`, `tokens_per_s_k8`, `peak_gib_k8` and, with the device's peak in FLOP/s,
    `mfu_k8`."""
    figures = {}
    for regions, of_way in costs.items():
        if (cost := of_way.get(TREE)) is not None:
            figures[f"regions_per_s_k{regions}"] = cost.regions / cost.seconds
            figures[f"tokens_per_s_k{regions}"] = cost.work.tokens / cost.seconds
            figures[f"peak_gib_k{regions}"] = cost.peak / 2**30
            if peak:
                figures[f"mfu_k{regions}"] = step_flops(units, cost.work).total / cost.seconds / peak
    return figures


def _profile(stepper: Stepper, batch: Batch) -> str:
    """The kernels of one step of tree, the costliest first."""
    from torch.profiler import ProfilerActivity, profile

    device = stepper.device.type
    batch = batch.to(stepper.device)
    stepper.choose_attention(TREE)
    with profile(activities=[getattr(ProfilerActivity, device.upper())]) as profiler:
        stepper.step(TREE, batch)
    return profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=20)


def _measure_cycle(options: argparse.Namespace) -> dict[str, float]:
    """The demo's models at K=4 on a CPU; where there is a GPU also the others, with adapters."""
    runs = [run for run in _runs(options) if run == DEMO or run.trained == "adapters"]
    figures: dict[str, float] = {}
    for run in runs:
        stepper = Stepper(build_model(run.shapes, run.device, run.trained), options.attention, mixed=run != DEMO)
        side = 128 if run.shapes == "tiny" else 1024
        times = measure_cycle(stepper, draw_batch(options.images, 4, side), options.rounds)
        print("\n" + cycle_table(times, f"a step, {run.shapes} on {run.device}, K=4, {options.images} images"))
        ratio = cycle_ratios(times, on_host=run.device == "cpu")
        figures |= {f"{name}{run.ending}": value for name, value in ratio.items()}
    return figures


def _measure_trainer(options: argparse.Namespace) -> dict[str, float]:
    model, batch = build_model("tiny", "cpu"), draw_batch(options.images, 4, 128)
    times = measure_overhead(model, batch, options.rounds, options.trainer_steps)
    in_ms = {name: spent.scaled(1000) for name, spent in times.items()}
    rows = [[name, f"{spent.processor_median:.1f}", f"{spent.clock_median:.1f}"] for name, spent in in_ms.items()]
    print("\n" + table([f"a step, tiny on cpu, K=4, {options.images} images", "ms", "by the clock"], rows))
    return {"trainer_overhead": times[FIT].processor_median / times[LOOP].processor_median}


if __name__ == "__main__":
    main()
