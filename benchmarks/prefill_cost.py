"""What a caption's prefill costs with all of an image's tokens and with chosen patches: time, memory; and its table."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.photos import draw_photo
from benchmarks.timing import Times, table, take_turns
from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.data.images import resize_to_planes
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.vlm.patch_pixels import choose_cells, fitted
from maskcap.vision_tokens.settings import Patches, VisionTokens

SHORT_SIDE, LOADED = 1500, 1024  # px: of a drawn photo, as SA-1B's, and as the data loader hands it over
OFF, ONE = "off", "alpha_1"


@dataclass(frozen=True)
class Photos:
    """image1 float32 (B, 3, 1024, 1024) normalised, one region of each: mask1 uint8 (B, 1024, 1024), 1/16 of it."""

    image1: torch.Tensor
    mask1: torch.Tensor

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The photos' own."""
        return [(SHORT_SIDE, SHORT_SIDE)] * len(self.image1)


@dataclass(frozen=True)
class PatchCost:
    """Of one way: tokens an image, times in seconds of its parts for all images (choose: part of encode, 0 where
    nothing is chosen), bytes at the peak."""

    tokens: float
    encode: float
    read: float
    choose: float
    peak: int

    @property
    def prefill(self) -> float:
        """Up to the first new token."""
        return self.encode + self.read


def draw_photos(images: int, device: str, seed: int = 0) -> Photos:
    """Square drawn photos, resized as the data loader does; the region is the middle quarter of either side."""
    planes = [
        resize_to_planes(draw_photo(np.random.default_rng((seed, n)), SHORT_SIDE, SHORT_SIDE), LOADED)
        for n in range(images)
    ]
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    mask1 = torch.zeros(images, LOADED, LOADED, dtype=torch.uint8)
    middle = slice(3 * LOADED // 8, 5 * LOADED // 8)
    mask1[:, middle, middle] = 1
    image1 = (torch.from_numpy(np.stack(planes)).float() / 255 - mean) / std
    return Photos(image1.to(device), mask1.to(device))


def measure(
    model: MaskCaptionModel, photos: Photos, ways: Mapping[str, VisionTokens], rounds: int
) -> dict[str, PatchCost]:
    """Time the ways on the same photos, taking turns; before that each once for its memory."""
    prefills = {way: Prefill(model, photos, settings) for way, settings in ways.items()}
    peaks, tokens = {}, {}
    for way, prefill in prefills.items():
        peaks[way] = peak_bytes(prefill.run, photos.image1.device.type)
        tokens[way] = prefill.tokens
    cases = {}
    for way, prefill in prefills.items():
        cases |= {f"{way} encode": prefill.encode, f"{way} read": prefill.read, f"{way} choose": prefill.choose}
    seconds = {case: _seconds(times, photos) for case, times in take_turns(cases, rounds).items()}

    def cost(way: str) -> PatchCost:
        encode, read, choose = (seconds[f"{way} {part}"] for part in ("encode", "read", "choose"))
        return PatchCost(tokens[way], encode, read, choose, peaks[way])

    return {way: cost(way) for way in ways}


class Prefill:
    """One way to read the photos, in the parts that are timed; each returns when the device is done."""

    def __init__(self, model: MaskCaptionModel, photos: Photos, settings: VisionTokens) -> None:
        self.model, self.photos, self.settings = model, photos, settings
        self.encoded: EncodedImages | None = None
        self.pixels = fit(model, photos)
        self.tokens = 0.0  # mean over the images, once they are encoded

    @torch.no_grad()
    def encode(self) -> None:
        """The language model's image tokens."""
        self.model.set_vision_tokens(self.settings)
        self.encoded = self.model.encode(self.photos.image1, self.photos.sizes)
        self.tokens = float(np.mean(self.encoded.tokens.counts))
        self._wait()

    def read(self) -> None:
        """The prefix, the question about the region, and one new token."""
        assert self.encoded is not None
        regions = torch.arange(len(self.photos.mask1), device=self.photos.mask1.device)
        self.model.generate_captions(self.encoded, self.photos.mask1, regions)

    def choose(self) -> None:
        """Entropies and cells alone, which `encode` does too; nothing where nothing is chosen."""
        if isinstance(self.settings, Patches):
            choose_cells(self.pixels, self.model.vlm.block, self.settings)  # type: ignore[arg-type]

    def run(self) -> None:
        """Encode and read, and keep nothing."""
        self.encode()
        self.read()
        self.encoded = None

    def _wait(self) -> None:
        if self.photos.image1.device.type == "cuda":
            torch.cuda.synchronize()


def fit(model: MaskCaptionModel, photos: Photos) -> list[torch.Tensor]:
    """Pixels 0..1 of each photo as the model sees it, by which patches are chosen."""
    vlm: Any = model.vlm
    return fitted(photos.image1, photos.sizes, vlm.resize, vlm.antialias)


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most bytes that torch's allocator held at once during `run` beyond those before it; what it frees of those does
    not count."""
    if device == "cuda":
        run()  # the libraries' own buffers
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    sizes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(0, int(np.cumsum(sizes).max(initial=0)))


def ratios(costs: Mapping[str, PatchCost]) -> dict[str, float]:
    """Shares of alpha 1, by name: `prefill_alpha_0.3`, …; of the way's own prefill: `choose_share_alpha_0.3`."""
    whole, found = costs[ONE], {}
    for way, cost in costs.items():
        if way != ONE:
            found[f"tokens_{way}"] = cost.tokens / whole.tokens
            found[f"prefill_{way}"] = cost.prefill / whole.prefill
            found[f"encode_{way}"] = cost.encode / whole.encode
            found[f"read_{way}"] = cost.read / whole.read
            found[f"memory_{way}"] = cost.peak / whole.peak
        if way != OFF:
            found[f"choose_share_{way}"] = cost.choose / cost.prefill
    return found


def cost_table(costs: Mapping[str, PatchCost]) -> str:
    """A line for each way, with what choosing alone takes, and shares of alpha 1."""
    whole, rows = costs[ONE], []
    for way, cost in costs.items():
        row = [way.replace("_", " "), f"{cost.tokens:g}", f"{cost.tokens / whole.tokens:.2f}"]
        row += [f"{1000 * cost.encode:.1f}", f"{1000 * cost.read:.1f}"]
        row += [f"{1000 * cost.prefill:.1f}", f"{cost.prefill / whole.prefill:.2f}"]
        row += [f"{cost.peak / 1e6:.1f}", f"{cost.peak / whole.peak:.2f}"]
        row += ["", ""] if way == OFF else [f"{1000 * cost.choose:.1f}", f"{cost.choose / cost.prefill:.1%}"]
        rows.append(row)
    header = ["a prefill", "tokens", "share", "encode, ms", "read, ms", "both, ms", "share"]
    return table([*header, "peak, MB", "share", "choosing, ms", "of both"], rows)


def _seconds(times: Times, photos: Photos) -> float:
    """The median: of processor time, by the clock where a GPU works."""
    return times.processor_median if photos.image1.device.type == "cpu" else times.clock_median
