"""Loaders that Lightning takes as they are: training with exact mid-epoch resume, evaluation in fixed order.

Both wrap a torch DataLoader, and are none: Lightning would rebuild a DataLoader with a sampler of its own in a
distributed run. Every rank takes its slice `rank::world` of one global order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from maskcap.data.batch import Batch, collate
from maskcap.data.mixture import Draw, Mixture, sample_rng
from maskcap.data.record import Record
from maskcap.data.sample import Choice, Sample, check_options, make_sample
from maskcap.errors import CheckpointError, ConfigError, MaskcapError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleOptions:
    """How records become samples; see `make_sample`."""

    image_size: int = 1024
    regions_per_image: int | None = 1
    caption_choice: Choice = "random"
    phrase_choice: Choice = "random"

    def __post_init__(self) -> None:
        check_options(self.image_size, self.regions_per_image, self.caption_choice, self.phrase_choice)


@dataclass(frozen=True)
class LoaderOptions:
    """How samples become batches. `batch_size` is of one rank; this rank is number `rank` of `world`."""

    batch_size: int = 1
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    world: int = 1


@dataclass(frozen=True, eq=False)
class DrawnSamples(Dataset):
    """Samples by Draw. A user's mistake is returned, not raised: torch would wrap it in the worker's traceback."""

    sources: Sequence[Sequence[Record]]
    seed: int
    options: SampleOptions

    def __getitem__(self, draw: Draw) -> Sample | MaskcapError:
        rng = sample_rng(self.seed, draw.epoch, draw.position)
        options = self.options
        try:
            return make_sample(
                self.sources[draw.source][draw.index],
                rng,
                image_size=options.image_size,
                regions_per_image=options.regions_per_image,
                caption_choice=options.caption_choice,
                phrase_choice=options.phrase_choice,
            )
        except MaskcapError as error:
            return error


class TrainLoader:
    """Batches of a mixture, epoch by epoch; `state_dict` counts the batches that were *yielded*, workers read ahead.

    Incomplete last batches are left out (their samples come in a later epoch). `set_epoch` chooses the epoch; Lightning
    calls it before each, through `sampler`. `reshuffle=False` repeats epoch 0, for overfitting on purpose.
    Raises ConfigError when an epoch has no full batch.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Record]],
        mixture: Mixture,
        samples: SampleOptions,
        options: LoaderOptions,
        *,
        reshuffle: bool = True,
    ) -> None:
        self._batches = _TrainBatches(mixture, options)
        if len(self) == 0:
            raise ConfigError(
                f"an epoch of {mixture.samples_per_epoch} samples has no full batch of {self._batches.global_size} "
                f"(batch_size {options.batch_size} × {options.world} ranks): "
                "raise samples_per_epoch or lower batch_size"
            )
        self._loader = _torch_loader(DrawnSamples(sources, mixture.seed, samples), options, batch_sampler=self._batches)
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
        return self._batches.mixture.samples_per_epoch // self._batches.global_size

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that the epoch is read at the first batch: Lightning makes the iterator before set_epoch.
        self._batches.epoch = self._epoch if self._reshuffle else 0
        self._batches.start = self._yielded = self._resume_at
        self._resume_at = 0
        tiny_regions = 0
        for batch in self._loader:
            self._yielded += 1
            checked = _checked(batch)
            tiny_regions += checked.tiny_regions
            yield checked
        _report_tiny(tiny_regions, "training epoch")

    def close(self) -> None:
        """Stop the worker processes; a later iteration starts new ones."""
        _stop_workers(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: the position in the epoch in samples of all ranks, and what fixes the order."""
        return {
            "epoch": self._epoch,
            "samples": self._yielded * self._batches.global_size,
            "order": _order_facts(self._batches.mixture),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the batch after the last one yielded; the split of a global batch over ranks may differ.

        Raises CheckpointError when that is inside an epoch and the order or the global batch size has changed.
        """
        size, samples = self._batches.global_size, int(state_dict["samples"])
        now, then = _order_facts(self._batches.mixture), dict(state_dict["order"])
        inside = 0 < samples < len(self) * size
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
        self._resume_at = self._yielded = min(samples // size, len(self))


class EvalLoader:
    """One evaluation set in record order; sample i is always drawn by (seed, 0, i).

    In a distributed run the ranks get equally many records, the first ones again where they do not divide: ranks with
    unequal numbers of batches would wait for each other for ever. `Batch.padding` marks the repeated ones.
    """

    def __init__(self, source: Sequence[Record], seed: int, samples: SampleOptions, options: LoaderOptions) -> None:
        count = len(source)
        slots = -(-count // options.world) * options.world
        mine = range(options.rank, slots, options.world)
        chunks = [mine[i : i + options.batch_size] for i in range(0, len(mine), options.batch_size)]
        batches = [[Draw(0, slot % count, 0, slot % count) for slot in chunk] for chunk in chunks]
        self._padding = [tuple(slot >= count for slot in chunk) for chunk in chunks]
        self._loader = _torch_loader(DrawnSamples((source,), seed, samples), options, batch_sampler=batches)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        tiny_regions = 0
        for batch, padding in zip(self._loader, self._padding, strict=True):
            checked = _checked(batch)
            tiny_regions += checked.tiny_regions
            yield replace(checked, padding=padding) if any(padding) else checked
        _report_tiny(tiny_regions, "evaluation")

    def close(self) -> None:
        """Stop the worker processes; a later iteration starts new ones."""
        _stop_workers(self._loader)


class _TrainBatches:
    """One rank's batches of Draws, from batch number `start` of `epoch`; both are set before each iteration."""

    def __init__(self, mixture: Mixture, options: LoaderOptions) -> None:
        self.mixture = mixture
        self.options = options
        self.global_size = options.batch_size * options.world
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        order_N2 = self.mixture.epoch_order(self.epoch)
        size = self.global_size
        for first in range(self.start * size, len(order_N2) - size + 1, size):
            positions = range(first + self.options.rank, first + size, self.options.world)
            yield [Draw(self.epoch, i, int(order_N2[i, 0]), int(order_N2[i, 1])) for i in positions]


def _torch_loader(dataset: Dataset, options: LoaderOptions, *, batch_sampler: Any) -> DataLoader:
    # torch already limits each worker to one thread.
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        pin_memory=options.pin_memory,
        # Each iteration takes a number from it: from the global one, a resumed run's dropout would differ.
        generator=torch.Generator(),
        collate_fn=_collate_or_error,
    )


def _stop_workers(loader: DataLoader) -> None:
    # Left to the garbage collector, an iterator in a reference cycle loses its queues before its workers are told to
    # stop, and 5 s are waited for each. torch has no public call for it; Lightning makes this one too.
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _collate_or_error(items: Sequence[Sample | MaskcapError]) -> Batch | MaskcapError:
    samples: list[Sample] = []
    for item in items:
        if isinstance(item, MaskcapError):
            return item
        samples.append(item)
    try:
        return collate(samples)
    except MaskcapError as error:
        return error


def _checked(batch: Batch | MaskcapError) -> Batch:
    if isinstance(batch, MaskcapError):
        raise batch
    return batch


def _report_tiny(count: int, where: str) -> None:
    if count:
        logger.info("%s: %d regions were smaller than a pixel of the resized image; each was kept as one", where, count)


def _order_facts(mixture: Mixture) -> dict[str, Any]:
    return {
        "seed": mixture.seed,
        "samples_per_epoch": mixture.samples_per_epoch,
        "sources": {name: [mixture.lengths[name], float(mixture.weights[name])] for name in mixture.lengths},
    }
