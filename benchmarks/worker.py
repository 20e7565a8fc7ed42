"""What one real data-loader worker delivers, by the clock: the recipe's and maskcap's, the same images and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.recipe import load_region
from maskcap.data.drawing import SampleOptions
from maskcap.data.loader import LoaderOptions, TrainLoader
from maskcap.data.mixture import Mixture
from maskcap.data.record import Record

BATCH = 8


@dataclass(frozen=True)
class RecipeRegions(Dataset):
    """`samples` regions by the recipe, from the JSONs in turn."""

    jsons: Sequence[Path]
    size: int
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return load_region(self.jsons[index % len(self.jsons)], np.random.default_rng(index), self.size)


def seconds_a_region(
    jsons: Sequence[Path], raw: Sequence[Record], shards: Sequence[Record], size: int, batches: int, rounds: int
) -> dict[str, float]:
    """Name → seconds a region, the median over `rounds` in which the loaders take turns; each delivers `batches`."""
    samples = (batches + 1) * BATCH

    def recipe() -> Iterable[object]:
        return DataLoader(RecipeRegions(jsons, size, samples), batch_size=BATCH, num_workers=1)

    def ours(source: Sequence[Record], regions: int) -> Iterable[object]:
        options = SampleOptions(image_size=size, regions_per_image=regions)
        mixture = Mixture({"a": len(source)}, {"a": 1.0}, 0, samples)
        return TrainLoader([source], mixture, options, LoaderOptions(BATCH, num_workers=1))

    loaders: dict[str, tuple[Callable[[], Iterable[object]], int]] = {
        "(a) Pillow recipe, K=1": (recipe, 1),
        "(b) maskcap, K=1": (lambda: ours(raw, 1), 1),
        "(c) maskcap, K=8": (lambda: ours(raw, 8), 8),
        "(d) from resized shards, K=1": (lambda: ours(shards, 1), 1),
        "(d) from resized shards, K=8": (lambda: ours(shards, 8), 8),
    }
    spent: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, (make, regions) in loaders.items():
            spent[name].append(_after_the_first(make()) / (batches * BATCH * regions))
    return {name: median(times) for name, times in spent.items()}


def _after_the_first(loader: Iterable[object]) -> float:
    """Seconds from the first batch to the last: the worker's start is not what is asked."""
    iterator = iter(loader)
    next(iterator)
    started = time.perf_counter()
    for _ in iterator:
        pass
    spent = time.perf_counter() - started
    if isinstance(loader, TrainLoader):
        loader.close()
    return spent
