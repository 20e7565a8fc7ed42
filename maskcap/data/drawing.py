"""Draws → samples, in a data-loader worker: what a bad one becomes is decided here, from the draw alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch.utils.data import Dataset

from maskcap.data.bad_samples import BadSample
from maskcap.data.batch import Batch, collate
from maskcap.data.mixture import Draw, sample_rng
from maskcap.data.record import Record
from maskcap.data.sample import Choice, Sample, check_options, make_sample
from maskcap.data.source_facts import key_of
from maskcap.errors import DataError, MaskcapError

MAX_TRIES = 100  # bad records in a row: then something is wrong with all of them


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
class Drawn:
    """What became of a draw: a sample, or the error that ends the run; and the bad samples passed over before it."""

    made: Sample | MaskcapError
    bad: tuple[BadSample, ...] = ()


@dataclass(frozen=True, eq=False)
class DrawnSamples(Dataset):
    """Samples by Draw. A user's mistake is returned, not raised: torch would wrap it in the worker's traceback.

    order: epoch → int64 (N, 2), the epoch's whole order as (source, index); read only to replace a bad sample.
    skip: replace a bad sample by the next of its epoch's order, made with the generator of the place that it takes; so
    the replacement depends on (seed, epoch, position) alone, and regions are drawn apart from the next one's own.
    """

    sources: Sequence[Sequence[Record]]
    seed: int
    options: SampleOptions
    order: Callable[[int], np.ndarray]
    skip: bool = False
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, draw: Draw) -> Drawn:
        bad: list[BadSample] = []
        for source, index in self._candidates(draw):
            made, key = self._make(source, index, sample_rng(self.seed, draw.epoch, draw.position))
            if isinstance(made, Sample) or not self.skip or not isinstance(made, DataError):
                return Drawn(made, tuple(bad))
            bad.append(BadSample.of(key, made))
        return Drawn(
            DataError(
                f"{len(bad)} records in a row are bad, the first: {bad[0].message} `maskcap check` lists every one",
                bad[0].reason,
            ),
            tuple(bad),
        )

    def _make(self, source: int, index: int, rng: np.random.Generator) -> tuple[Sample | MaskcapError, str]:
        options = self.options
        key = None
        try:
            record = self.sources[source][index]
            key = record.key
            made = make_sample(
                record,
                rng,
                image_size=options.image_size,
                regions_per_image=options.regions_per_image,
                caption_choice=options.caption_choice,
                phrase_choice=options.phrase_choice,
            )
            return made, key
        except MaskcapError as error:
            return error, key if key is not None else key_of(self.sources[source], index)

    def _candidates(self, draw: Draw) -> Iterator[tuple[int, int]]:
        yield draw.source, draw.index
        order_N2 = self._order(draw.epoch)
        for step in range(1, min(len(order_N2), MAX_TRIES)):
            source, index = order_N2[(draw.position + step) % len(order_N2)]
            yield int(source), int(index)

    def _order(self, epoch: int) -> np.ndarray:
        """The epoch's order, kept for the next bad sample; of one epoch at a time."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self.order(epoch)
        return self._orders[epoch]


def collate_drawn(items: Sequence[Drawn]) -> Batch | MaskcapError:
    """Samples → Batch with what was passed over in `bad`; the first error instead where there is one."""
    samples: list[Sample] = []
    for item in items:
        if isinstance(item.made, MaskcapError):
            return item.made
        samples.append(item.made)
    try:
        batch = collate(samples)
    except MaskcapError as error:
        return error
    return replace(batch, bad=tuple(bad for item in items for bad in item.bad))


def collate_evaluation(items: Sequence[Drawn]) -> Batch | MaskcapError:
    """As `collate_drawn`; samples in a bad one's place are padding: they have their own place too."""
    batch = collate_drawn(items)
    replaced = tuple(bool(item.bad) for item in items)
    return replace(batch, padding=replaced) if isinstance(batch, Batch) and any(replaced) else batch
