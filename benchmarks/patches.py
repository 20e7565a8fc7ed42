"""`python -m benchmarks.patches`: what adaptive patches save of a caption's prefill, and what choosing them costs.

The same drawn photos go through Qwen2-VL whole and with patches chosen for a budget of alpha · tokens, up to the first
new token of a caption: the vision tower's part (`encode`, with resizing and choosing), then the language model's
(`read`: the image's prefix, the region's question, one token). All ways take turns. alpha 1 gives the very numbers of
no selection (`off`) and is what the others are shares of. Nothing is passed or failed here.

By default, on a CPU: two blocks each of Qwen2-VL-2B's vision tower and language model, at their true widths, in float32
on one thread, processor time; where there is a GPU also the whole model in bfloat16, by the clock. Memory is the most
that torch's allocator held at once beyond what lay there before (weights, images), as torch counts it on either device;
on a CPU in a run of its own under its profiler. What libraries take past torch's allocator is not in it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.prefill_cost import OFF, ONE, Photos, cost_table, draw_photos, fit, measure, ratios
from benchmarks.qwen2_vl_shape import NAMES, SLICE, WHOLE, build_qwen2_vl
from benchmarks.timing import finish, table
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.vlm.patch_pixels import choose_cells
from maskcap.vision_tokens.settings import Patches, SingleView, VisionTokens

METHODS = {"v1": Patches(method="v1"), "v2": Patches(method="v2", alpha=1.0)}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Build, measure, print; returns the figures that --json writes."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    figures: dict[str, float] = {}
    for name in options.shapes or ([SLICE, WHOLE] if torch.cuda.is_available() else [SLICE]):
        device = options.device or ("cuda" if name == WHOLE else "cpu")
        ending = "" if (name, device) == (SLICE, "cpu") else f"_{name}_{device}"
        found = _measure_model(name, device, options)
        figures |= {f"{figure}{ending}": value for figure, value in found.items()}
    return finish(figures, options.json)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.patches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, help="write the figures to this file")
    add("--shapes", nargs="+", choices=NAMES, help=f"default: {SLICE}, and {WHOLE} where there is a GPU")
    add("--device", choices=("cpu", "cuda"), help=f"default: cpu, cuda for {WHOLE}")
    add("--blocks", type=int, default=2, help=f"of vision tower and language model in {SLICE} (default: 2)")
    add("--alphas", nargs="+", type=float, default=(0.5, 0.3, 0.2), help="budgets beside 1 (default: .5 .3 .2)")
    add("--images", type=int, help="read at once (default: 1; on a GPU 8)")
    add("--pictures", type=int, default=8, help="whose tokens by the methods without a budget are counted (default: 8)")
    add("--rounds", type=int, default=3, help="turns of each way (default: 3)")
    options = parser.parse_args(arguments)
    asked = {options.device, "cuda" if WHOLE in (options.shapes or ()) and not options.device else None}
    if "cuda" in asked and not torch.cuda.is_available():
        parser.error(f"torch finds no GPU here: use --device cpu ({WHOLE} then takes minutes and 9 GB)")
    return options


def _measure_model(name: str, device: str, options: argparse.Namespace) -> dict[str, float]:
    images = options.images or (8 if device == "cuda" else 1)
    model = build_qwen2_vl(name, device, options.blocks)
    photos = draw_photos(max(images, options.pictures), device)
    counts = count_tokens(model, photos)
    timed = Photos(photos.image1[:images], photos.mask1[:images])
    ways: dict[str, VisionTokens] = {OFF: SingleView(Patches().pool), ONE: Patches(alpha=1.0)}
    ways |= {f"alpha_{alpha:g}": Patches(alpha=alpha) for alpha in options.alphas if alpha != 1}
    costs = measure(model, timed, ways, options.rounds)
    blocks = f", {options.blocks} + {options.blocks} blocks" if name == SLICE else ""
    print(f"\n{name} on {device}{blocks}: {images} × {model.vlm.image_size} px at once, {options.rounds} rounds\n")
    print(cost_table(costs) + "\n\n" + count_table(counts, costs[OFF].tokens))
    return ratios(costs) | {f"tokens_{way}": np.mean(each).item() / costs[OFF].tokens for way, each in counts.items()}


def count_tokens(model: MaskCaptionModel, photos: Photos) -> dict[str, list[int]]:
    """Tokens of each photo by the methods whose number depends on the picture."""
    pixels, block = fit(model, photos), model.vlm.block
    return {
        way: [len(cells) for cells in choose_cells(pixels, block, settings)]  # type: ignore[arg-type]
        for way, settings in METHODS.items()
    }


def count_table(counts: Mapping[str, Sequence[int]], whole: float) -> str:
    """Tokens by the methods without a budget, a line each."""
    rows = []
    for way, each in counts.items():
        settings = METHODS[way]
        name = f"v2, alpha {settings.alpha:g}" if way == "v2" else "v1, default thresholds"
        rows.append([name, f"{np.mean(each):.0f}", f"{min(each)} … {max(each)}", f"{np.mean(each) / whole:.2f}"])
    pictures = len(next(iter(counts.values())))
    return table([f"tokens of {pictures} drawn photos", "mean", "from … to", "share"], rows)


if __name__ == "__main__":
    main()
