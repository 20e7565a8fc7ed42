"""A worker's memory stays what it was, over 50 000 samples of every layout."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from maskcap.data.drawing import SampleOptions
from maskcap.data.loader import LoaderOptions, TrainLoader
from maskcap.data.mixture import Mixture
from maskcap.data.record import Record
from maskcap.data.scenes import make_scenes
from maskcap.data.shards import ShardSource
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import OspreySource, RefCOCOSource, SA1BSource, SAVSource

SAMPLES, WARM_UP, BATCH = 50_000, 5_000, 50


def resident(pid: int) -> int:
    """Resident memory of a process in kB, shared pages included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_workers_memory_is_flat(tmp_path):
    make_scenes(tmp_path, seed=0, train=40, val=2, size=64, workers=0)
    sources: dict[str, Sequence[Record]] = {
        "refcoco": RefCOCOSource(tmp_path),
        "osprey": OspreySource(tmp_path / "osprey" / "osprey_detail_description.json", tmp_path / "coco"),
        "sa1b": SA1BSource(tmp_path),
        "sav": SAVSource(tmp_path),
    }
    write_shards(sources["osprey"], tmp_path / "shards", ShardOptions(groups_per_shard=10), workers=0)
    sources["shards"] = ShardSource(tmp_path / "shards")
    weights = {"refcoco": 1.0, "osprey": 1.0, "sa1b": 1.0, "sav": 0.3, "shards": 1.0}
    mixture = Mixture({name: len(source) for name, source in sources.items()}, weights, 0, SAMPLES)
    options = SampleOptions(image_size=16, regions_per_image=2)
    before = set(multiprocessing.active_children())
    loader = TrainLoader(list(sources.values()), mixture, options, LoaderOptions(BATCH, num_workers=2))
    warm: dict[int, int] = {}
    for number, _ in enumerate(loader, start=1):
        workers = [child.pid for child in set(multiprocessing.active_children()) - before if child.pid]
        if number == WARM_UP // BATCH:
            warm = {pid: resident(pid) for pid in workers}
        if number == SAMPLES // BATCH - 4:  # a worker that is done may have left by the last batch
            grown = {pid: resident(pid) / warm[pid] - 1 for pid in workers}
    loader.close()
    assert len(grown) == 2 and max(grown.values()) < 0.05, grown
    print({pid: f"{kb} kB {grown[pid]:+.2%}" for pid, kb in warm.items()})
