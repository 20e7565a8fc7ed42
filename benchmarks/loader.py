"""`python -m benchmarks.loader`: what one region costs, from the files to the batch that a worker hands over.

In one process, on one core, in turns, on the same drawn files: (a) the recipe that maskcap replaces, one region a
sample; (b) maskcap with one region a sample and (c) with eight; (d) both from shards of resized images; (e) decoding
the JPEGs and nothing else. A turn is one batch of all the images. Nothing is passed or failed here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.photos import write_images
from benchmarks.recipe import load_region, stack
from benchmarks.timing import Times, table, take_turns
from benchmarks.worker import seconds_a_region
from maskcap.data.collate import collate
from maskcap.data.content import read_bytes
from maskcap.data.images import read_image, resize_to_planes
from maskcap.data.record import ImageRef, Record
from maskcap.data.rle_resize import decode_resized
from maskcap.data.sample import Sample, make_sample
from maskcap.data.shards import ShardSource
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import SA1BSource

SIZE = 1024
RECIPE = "(a) Pillow recipe, K=1"
RAW_1, RAW_8 = "(b) maskcap, K=1", "(c) maskcap, K=8"
SHARDS_1, SHARDS_8 = "(d) from resized shards, K=1", "(d) from resized shards, K=8"
DECODE = "(e) JPEG decode alone"
REGIONS = {RECIPE: 1, RAW_1: 1, RAW_8: 8, SHARDS_1: 1, SHARDS_8: 8, DECODE: 1}  # K of each
UNSTACKED = " unstacked"


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Draw, measure, print; returns the ratios that --json writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the ratios to this file")
    parser.add_argument("--images", type=int, default=8, help="how many images to draw (default: 8)")
    parser.add_argument("--rounds", type=int, default=7, help="batches of each way (default: 7)")
    parser.add_argument("--short-side", type=int, default=1500, help="of the images, in pixels (default: 1500)")
    parser.add_argument("--masks", type=int, default=100, help="of each image (default: 100)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="maskcap-loader-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and numpy 2, in the recipe
        folder = Path(name)
        write_images(folder / "raw", options.images, short_side=options.short_side, masks=options.masks)
        raw = SA1BSource(folder / "raw")
        write_shards(raw, folder / "shards", ShardOptions(resize=SIZE), workers=0)
        times = take_turns(_cases(folder, raw), options.rounds)
        stages = take_turns(_stages(raw), options.rounds)
        jsons = sorted((folder / "raw").glob("*.json"))
        worker = seconds_a_region(jsons, raw, ShardSource(folder / "shards"), SIZE, options.rounds, rounds=3)
        print(f"{options.images} images, {options.rounds} rounds; {_sizes(folder)}; load of the machine {_load()}\n")
    costs = {name: spent.scaled(1000 / options.images) for name, spent in times.items()}
    parts = {name: spent.scaled(1000 / options.images) for name, spent in stages.items()}
    ratios = _ratios(costs)
    _print(costs, parts, ratios)
    _print_worker(worker)
    if options.json:
        options.json.write_text(json.dumps(ratios, indent=2) + "\n")
    return ratios


def _cases(folder: Path, raw: Sequence[Record]) -> dict[str, Callable[[], object]]:
    """What is timed, by name; but for the bare decode, each once with its batch stacked and once without."""
    jsons = sorted((folder / "raw").glob("*.json"))
    jpegs = [path.with_suffix(".jpg").read_bytes() for path in jsons]
    shards, rng = ShardSource(folder / "shards"), np.random.default_rng(0)
    images = range(len(jsons))

    def recipe() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [load_region(path, rng, SIZE) for path in jsons]

    def samples(source: Sequence[Record], regions: int) -> list[Sample]:
        return [make_sample(source[i], rng, image_size=SIZE, regions_per_image=regions) for i in images]

    cases: dict[str, Callable[[], object]] = {
        RECIPE: lambda: stack(recipe()),
        RECIPE + UNSTACKED: recipe,
        DECODE: lambda: [simplejpeg.decode_jpeg(data, "RGB").shape for data in jpegs],
    }
    for name, source in ((RAW_1, raw), (RAW_8, raw), (SHARDS_1, shards), (SHARDS_8, shards)):
        load = partial(samples, source, REGIONS[name])
        cases |= {name: lambda load=load: collate(load()), name + UNSTACKED: load}
    return cases


def _stages(source: Sequence[Record]) -> dict[str, Callable[[], object]]:
    """The steps of (b), one by one, each for all images."""
    images = range(len(source))
    records = [source[i] for i in images]
    rng = np.random.default_rng(0)
    refs = [record.image1 for record in records if record.image1 is not None]  # photos: each has one
    pixels = [read_image(ref) for ref in refs]

    def mask(record: Record, ref: ImageRef) -> object:
        """One of its regions, at SIZE × SIZE."""
        region = record.regions1[int(rng.integers(len(record.regions1)))]
        return decode_resized(region.mask, ref.height, ref.width, SIZE)

    return {
        "annotation, about 100 regions": lambda: [source[i] for i in images],
        "bytes": lambda: [read_bytes(ref.path, "") for ref in refs],
        "bytes and decode": lambda: [read_image(ref).shape for ref in refs],
        "resize": lambda: [resize_to_planes(image_HW3, SIZE) for image_HW3 in pixels],
        "mask": lambda: [mask(record, ref) for record, ref in zip(records, refs, strict=True)],
        "all": lambda: collate([make_sample(source[i], rng, image_size=SIZE) for i in images]),
    }


def _ratios(costs: dict[str, Times]) -> dict[str, float]:
    """How many times as fast as the recipe, a region; the last: how many times the bare decode's time."""
    cost = {name: costs[name].processor_median / regions for name, regions in REGIONS.items()}
    return {
        "k1_vs_recipe": cost[RECIPE] / cost[RAW_1],
        "k8_vs_recipe": cost[RECIPE] / cost[RAW_8],
        "shards_k1_vs_recipe": cost[RECIPE] / cost[SHARDS_1],
        "shards_k8_vs_recipe": cost[RECIPE] / cost[SHARDS_8],
        "k1_vs_decode": cost[RAW_1] / cost[DECODE],
    }


def _print(costs: dict[str, Times], parts: dict[str, Times], ratios: dict[str, float]) -> None:
    recipe, decode = costs[RECIPE].processor_median, costs[DECODE].processor_median
    recipe_unstacked = costs[RECIPE + UNSTACKED].processor_median
    rows = []
    for name, regions in REGIONS.items():
        cost, clock = costs[name].processor_median / regions, costs[name].clock_median / regions
        row = [name, f"{cost:.2f}", f"{clock:.2f}", f"{recipe / cost:.1f}×", f"{cost / decode:.2f}×"]
        if name != DECODE:
            unstacked = costs[name + UNSTACKED].processor_median / regions
            row += [f"{unstacked:.2f}", f"{recipe_unstacked / unstacked:.1f}×"]
        rows.append(row + [""] * (7 - len(row)))
    header = ["a region", "ms", "by the clock", "faster than (a)", "time of (e)", "not stacked, ms", "faster than (a)"]
    print(table(header, rows))

    spent = {name: part.processor_median for name, part in parts.items()}
    whole = spent.pop("all")
    spent["decode"] = spent.pop("bytes and decode") - spent["bytes"]
    spent["stacking, and the rest"] = whole - sum(spent.values())
    rows = [[name, f"{cost:.2f}", f"{cost / whole:.0%}"] for name, cost in spent.items()]
    rows.append(["all", f"{whole:.2f}", ""])
    print("\n" + table(["where the time of (b) goes", "ms", "share"], rows))
    print("\n" + "  ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


def _print_worker(seconds: dict[str, float]) -> None:
    recipe = seconds[RECIPE]
    rows = [[name, f"{1000 * spent:.2f}", f"{recipe / spent:.1f}×"] for name, spent in seconds.items()]
    print("\n" + table(["through one real worker, a region", "ms by the clock", "faster than (a)"], rows))


def _sizes(folder: Path) -> str:
    jpegs, jsons, tars = (
        [path.stat().st_size for path in sorted(folder.rglob(f"*.{kind}"))] for kind in ("jpg", "json", "tar")
    )
    return (
        f"JPEGs of {np.median(jpegs) / 1e6:.2f} MB, JSONs of {np.median(jsons) / 1e3:.0f} kB, "
        f"shards of {sum(tars) / len(jpegs) / 1e6:.2f} MB an image"
    )


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
