"""Stop after every k-th step of a small epoch, go on from the state: ids and contents are the undisturbed run's."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from maskcap.data.bad_samples import BadSamplePolicy
from maskcap.data.batch import Batch
from maskcap.data.drawing import SampleOptions
from maskcap.data.loader import LoaderOptions, TrainLoader
from maskcap.data.mixture import Mixture
from maskcap.data.record import Record
from maskcap.data.scenes import make_scenes
from maskcap.data.shards import ShardSource
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import RefCOCOSource, SA1BSource

EPOCH = 2
STEPS = 6
SAMPLES = SampleOptions(image_size=16, regions_per_image=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, seed=0, train=7, val=2, size=64, workers=0)
    write_shards(SA1BSource(folder), folder / "shards", ShardOptions(groups_per_shard=3), workers=0)
    next((folder / "sa1b").glob("*.jpg")).write_bytes(b"no image")  # its shard was written before
    next(iter(sorted((folder / "coco" / "train2014").glob("*.jpg")))).write_bytes(b"no image")  # to be replaced
    return folder


def train_loader(root: Path, *, workers: int, rank: int, world: int, size: int) -> TrainLoader:
    shards = ShardSource(root / "shards")
    sources: list[Sequence[Record]] = [RefCOCOSource(root), shards]
    lengths = {"words": len(sources[0]), "masks": len(shards)}
    samples = STEPS * size * world - 1  # the last batch is short
    mixture = Mixture(lengths, {"words": 2.0, "masks": 1.0}, 5, samples, {"masks": shards.blocks}, shuffle_window=2)
    options = LoaderOptions(size, workers, rank=rank, world=world)
    return TrainLoader(sources, mixture, SAMPLES, options, policy=BadSamplePolicy("skip", 1.0))


def digest(batch: Batch) -> tuple[list[str], str]:
    """The sample ids, and a hash of everything else that a batch holds."""
    content = hashlib.sha256(batch.image1.numpy().tobytes() + batch.mask1.numpy().tobytes())
    content.update(repr((batch.region_ids, batch.caption, batch.phrase, batch.references, batch.sizes)).encode())
    content.update(repr((batch.region_image.tolist(), batch.padding, batch.bad)).encode())
    return batch.keys, content.hexdigest()


def resumed_everywhere(root: Path, workers: int, rank: int, world: int, size: int) -> list[str]:
    """What differs, over every stop. In a distributed run every rank goes on from rank 0's state, as a checkpoint's."""
    whole = train_loader(root, workers=0, rank=rank, world=world, size=size)
    whole.set_epoch(EPOCH)
    undisturbed = [digest(batch) for batch in whole]
    wrong = [] if len(undisturbed) == STEPS else [f"{len(undisturbed)} steps"]
    for stop in range(STEPS + 1):
        stopped = train_loader(root, workers=workers, rank=rank, world=world, size=size)
        stopped.set_epoch(EPOCH)
        iterator = iter(stopped)
        before = [digest(next(iterator)) for _ in range(stop)]
        state = [json.dumps(stopped.state_dict())]
        stopped.close()
        if world > 1:
            dist.broadcast_object_list(state, src=0)
        rest = train_loader(root, workers=workers, rank=rank, world=world, size=size)
        rest.load_state_dict(json.loads(state[0]))
        rest.set_epoch(EPOCH)
        after = [digest(batch) for batch in rest]
        rest.close()
        if before + after != undisturbed:
            wrong.append(f"workers {workers}, rank {rank} of {world}, stopped after {stop}")
    return wrong


# torch advises against more workers than cores; what is tested is that their number changes nothing
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_one_rank(root, workers):
    assert resumed_everywhere(root, workers, 0, 1, 2) == []


def _rank(rank: int, root: str, store: str, results: Any) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of the workers; this process was spawned
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put([wrong for workers in (0, 2, 3) for wrong in resumed_everywhere(Path(root), workers, rank, 2, 1)])
    dist.destroy_process_group()


def test_two_ranks(root, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    store = str(tmp_path / "store")
    ranks = [context.Process(target=_rank, args=(rank, str(root), store, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    assert [results.get(timeout=120) for _ in ranks] == [[], []]
    for process in ranks:
        process.join()


def test_another_number_of_ranks_and_workers_goes_on_with_the_same_global_batches(root):
    def positions(loaders: list[TrainLoader], steps: int | None = None) -> list[set[str]]:
        iterators = [iter(loader) for loader in loaders]
        found = []
        for _step in range(STEPS if steps is None else steps):
            batches = [next(iterator, None) for iterator in iterators]
            if all(batch is None for batch in batches):
                break
            found.append({key for batch in batches if batch and not batch.all_padding for key in batch.keys})
        return found

    def loaders(world: int, workers: int = 0, state: dict | None = None) -> list[TrainLoader]:
        made = [train_loader(root, workers=workers, rank=rank, world=world, size=6 // world) for rank in range(world)]
        for loader in made:
            if state is not None:
                loader.load_state_dict(state)
            loader.set_epoch(EPOCH)
        return made

    undisturbed = positions(loaders(1))
    for before, after, workers in ((3, 1, 2), (1, 2, 0), (2, 3, 1), (2, 6, 0)):
        stopped = loaders(before)
        assert positions(stopped, 2) == undisturbed[:2]
        rest = loaders(after, workers, stopped[0].state_dict())
        assert positions(rest) == undisturbed[2:]
        for loader in rest:
            loader.close()


def test_going_on_reads_nothing_of_what_was_seen(root):
    class Counting(list):
        """A source that notes what is asked for."""

        asked: list[int] = []

        def __getitem__(self, index):
            self.asked.append(index)
            return super().__getitem__(index)

    source = Counting(RefCOCOSource(root))
    count = len(source)
    mixture, policy = Mixture({"a": count}, {"a": 1.0}, 0, count), BadSamplePolicy("skip", 1.0)
    loader = TrainLoader([source], mixture, SAMPLES, LoaderOptions(1), policy=policy)
    loader.load_state_dict(loader.state_dict() | {"samples": count - 2})
    assert len(list(loader)) == 2 and len(source.asked) == 2
    assert sum(len(batch.bad) for batch in train_loader(root, workers=0, rank=0, world=1, size=2)) > 0
