"""Loaders that Lightning takes as they are: training with exact mid-epoch resume, evaluation in fixed order.

Both wrap a torch DataLoader, and are none: Lightning would rebuild a DataLoader with a sampler of its own in a
distributed run. Every rank takes its slice `rank::world` of one global order.
"""

from __future__ import annotations

import functools
import logging
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from maskcap.data.bad_samples import BadSampleLog, BadSamplePolicy
from maskcap.data.batch import Batch
from maskcap.data.batches import TrainBatches
from maskcap.data.drawing import DrawnSamples, SampleOptions, collate_drawn, collate_evaluation
from maskcap.data.mixture import Draw, Mixture
from maskcap.data.record import Record
from maskcap.data.sa2va.collate import Sa2VABatch
from maskcap.data.workers import with_named_deaths
from maskcap.errors import CheckpointError, ConfigError, MaskcapError
from maskcap.training.stop_signals import STOP_SIGNALS

logger = logging.getLogger(__name__)

RAISE = BadSamplePolicy()


@dataclass(frozen=True)
class LoaderOptions:
    """How samples become batches. `batch_size` is of one rank; this rank is number `rank` of `world`.

    prefetch: batches that each worker makes ahead. drop_last: leave an epoch's last samples out where they fill no
    batch (of all ranks), for models that need one batch size.
    """

    batch_size: int = 1
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    world: int = 1
    prefetch: int = 2
    drop_last: bool = False


class TrainLoader:
    """Batches of a mixture, epoch by epoch; `state_dict` counts the batches that were *yielded*, workers read ahead.

    Every sample of the epoch's order is in one batch of one rank. `set_epoch` chooses the epoch; Lightning calls it
    before each, through `sampler`. `reshuffle=False` repeats epoch 0, for overfitting on purpose.
    Raises ConfigError when an epoch has no batch, which `drop_last` can do.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Record]],
        mixture: Mixture,
        samples: SampleOptions,
        options: LoaderOptions,
        *,
        reshuffle: bool = True,
        policy: BadSamplePolicy = RAISE,
    ) -> None:
        self._batches = TrainBatches(
            mixture,
            options.batch_size,
            options.rank,
            options.world,
            drop_last=options.drop_last,
            sources=sources,
            regions_per_image=samples.regions_per_image,
        )
        if len(self) == 0:
            raise ConfigError(
                f"an epoch of {mixture.samples_per_epoch} samples has no full batch of {self._batches.global_size} "
                f"(batch_size {options.batch_size} × {options.world} ranks): "
                "raise samples_per_epoch, lower batch_size or set drop_last=false"
            )
        dataset = DrawnSamples(
            sources, mixture.seed, samples, mixture.epoch_order, policy.skips, tuple(mixture.lengths)
        )
        self._loader = _torch_loader(dataset, options, self._batches, collate_drawn)
        self._bad = BadSampleLog(policy, "training epoch")
        self._reshuffle = reshuffle
        self._epoch = 0
        self._resume_at = 0
        self._yielded = 0

    @property
    def sampler(self) -> TrainLoader:
        """Itself: Lightning looks for `set_epoch` on a loader's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is `epoch`; a position loaded for another epoch is dropped."""
        if epoch != self._epoch:
            self._epoch, self._resume_at, self._yielded = epoch, 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever was resumed."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that the epoch is read at the first batch: Lightning makes the iterator before set_epoch.
        self._batches.epoch = self._epoch if self._reshuffle else 0
        self._batches.start = self._yielded = self._resume_at
        self._resume_at = 0
        self._bad.begin(self._batches.mixture.samples_per_epoch // self._batches.world)
        tiny_regions = 0
        for batch in with_named_deaths(self._loader):
            padding = self._batches.is_padding(self._yielded)
            self._yielded += 1
            checked = _checked(batch)
            self._bad.add(checked.bad, len(checked.keys))
            tiny_regions += checked.tiny_regions
            yield _handed_over(replace(checked, padding=(True,) * len(checked.keys)) if padding else checked)
        self._bad.report()
        _report_tiny(tiny_regions, "training epoch")

    def close(self) -> None:
        """Stop the worker processes; a later iteration starts new ones."""
        _stop_workers(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: the position in the epoch in samples of all ranks, and what fixes the order."""
        return {
            "epoch": self._epoch,
            "samples": min(self._yielded * self._batches.global_size, self._batches.mixture.samples_per_epoch),
            "order": self._order_facts(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the batch after the last one yielded; the split of a global batch over ranks may differ.

        Raises CheckpointError when that is inside an epoch and the order or the global batch size has changed.
        """
        size, samples = self._batches.global_size, int(state_dict["samples"])
        now, then = self._order_facts(), {"spread": False} | dict(state_dict["order"])
        inside = 0 < samples < min(len(self) * size, self._batches.mixture.samples_per_epoch)
        changed = [f"{name}: {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
        if inside and changed:
            raise CheckpointError(
                f"the checkpoint is inside epoch {state_dict['epoch']} and the training data has changed since "
                f"({'; '.join(changed)}): restore the data settings, or start a new run from its weights"
            )
        if inside and samples % size:
            raise CheckpointError(
                f"the checkpoint is {samples} samples into epoch {state_dict['epoch']}, no multiple of the global "
                f"batch of {size}: resume with the batch size × ranks that it was made with"
            )
        self._epoch = int(state_dict["epoch"])
        self._resume_at = self._yielded = min(-(-samples // size), len(self))

    def _order_facts(self) -> dict[str, Any]:
        """Everything that the order of an epoch follows from, but the epoch."""
        mixture = self._batches.mixture
        window = mixture.shuffle_window
        return {
            "seed": mixture.seed,
            "samples_per_epoch": mixture.samples_per_epoch,
            "sources": {name: [mixture.lengths[name], float(mixture.weights[name])] for name in mixture.lengths},
            "reshuffle": self._reshuffle,
            "shuffle_window": window,
            "spread": mixture.spread,
            # A long list of shards, in short; without a window they decide nothing.
            "shards": 0 if window is None else zlib.crc32(repr(sorted(mixture.blocks.items())).encode()),
        }


class EvalLoader:
    """One evaluation set in record order; sample i is always drawn by (seed, 0, i).

    In a distributed run the ranks get equally many records, the first ones again where they do not divide: ranks with
    unequal numbers of batches would wait for each other for ever. `Batch.padding` marks the repeated ones, and what
    stands in a bad sample's place when the policy is to skip.
    """

    def __init__(
        self,
        source: Sequence[Record],
        seed: int,
        samples: SampleOptions,
        options: LoaderOptions,
        *,
        policy: BadSamplePolicy = RAISE,
    ) -> None:
        count = len(source)
        slots = -(-count // options.world) * options.world
        mine = range(options.rank, slots, options.world)
        chunks = [mine[i : i + options.batch_size] for i in range(0, len(mine), options.batch_size)]
        batches = [[Draw(0, slot % count, 0, slot % count) for slot in chunk] for chunk in chunks]
        self._padding = [tuple(slot >= count for slot in chunk) for chunk in chunks]
        dataset = DrawnSamples((source,), seed, samples, functools.partial(_record_order, count), policy.skips)
        self._loader = _torch_loader(dataset, options, batches, collate_evaluation)
        self._bad = BadSampleLog(policy, "evaluation")
        self._samples = len(mine)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self._bad.begin(self._samples)
        tiny_regions = 0
        for batch, padding in zip(with_named_deaths(self._loader), self._padding, strict=True):
            checked = _checked(batch)
            self._bad.add(checked.bad, len(checked.keys))
            tiny_regions += checked.tiny_regions
            either = tuple(filled or checked.is_padding(i) for i, filled in enumerate(padding))
            yield _handed_over(replace(checked, padding=either) if any(either) else checked)
        self._bad.report()
        _report_tiny(tiny_regions, "evaluation")

    def close(self) -> None:
        """Stop the worker processes; a later iteration starts new ones."""
        _stop_workers(self._loader)


def _record_order(count: int, epoch: int) -> np.ndarray:
    """int64 (count, 2): source 0's records in order."""
    return np.stack([np.zeros(count, np.int64), np.arange(count)], axis=1)


def _torch_loader(dataset: Dataset, options: LoaderOptions, batches: Any, collate: Callable[..., Any]) -> DataLoader:
    # torch already limits each worker to one thread.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        prefetch_factor=options.prefetch if options.num_workers > 0 else None,
        pin_memory=options.pin_memory,
        # Each iteration takes a number from it: from the global one, a resumed run's dropout would differ.
        generator=torch.Generator(),
        collate_fn=collate,
        worker_init_fn=_outlive_stop_signals if options.num_workers > 0 else None,
    )


def _outlive_stop_signals(worker: int) -> None:
    # A batch system signals every process of a job, and the step that ends needs its workers. torch sets a handler of
    # SIGTERM's own in a worker, before this.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop_workers(loader: DataLoader) -> None:
    # Left to the garbage collector, an iterator in a reference cycle loses its queues before its workers are told to
    # stop, and 5 s are waited for each. torch has no public call for it; Lightning makes this one too.
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        workers = list(getattr(iterator, "_workers", ()))
        iterator._shutdown_workers()
        for worker in workers:
            if worker.is_alive():  # stuck, and deaf to terminate()
                worker.kill()
        loader._iterator = None


def _checked(batch: Any) -> Any:
    if isinstance(batch, MaskcapError):
        raise batch
    return batch


def _handed_over(batch: Batch | Sa2VABatch) -> Any:
    return batch.plain() if isinstance(batch, Sa2VABatch) else batch


def _report_tiny(count: int, where: str) -> None:
    if count:
        logger.info("%s: %d regions were smaller than a pixel of the masks; each was kept as one", where, count)
