"""Draws → samples, in a data-loader worker: what a bad one becomes is decided here, from the draw alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from maskcap.data.bad_samples import BadSample
from maskcap.data.batch import Batch
from maskcap.data.choices import Choice, FrameChoice, check_frames, check_options
from maskcap.data.collate import collate
from maskcap.data.mixture import Draw, sample_rng
from maskcap.data.record import Record
from maskcap.data.sa2va import Sa2VAOptions, make_sa2va_sample
from maskcap.data.sa2va.collate import Sa2VABatch
from maskcap.data.sample import Sample, make_sample
from maskcap.data.source_facts import key_of, known_bad
from maskcap.errors import DataError, MaskcapError

MAX_TRIES = 100  # to replace one sample; records known to be bad are none. Then something is wrong with all of them


@dataclass(frozen=True)
class SampleOptions:
    """How records become samples; see `make_sample`. sa2va: make those of `data.format=sa2va`, by these options."""

    image_size: int = 1024
    regions_per_image: int | None = 1
    caption_choice: Choice = "random"
    phrase_choice: Choice = "random"
    frames_per_sample: int = 5
    frame_choice: FrameChoice = "random"
    sa2va: Sa2VAOptions | None = None

    def __post_init__(self) -> None:
        check_options(self.image_size, self.regions_per_image, self.caption_choice, self.phrase_choice)
        check_frames(self.frames_per_sample, self.frame_choice)


@dataclass(frozen=True)
class Drawn:
    """What became of a draw: a sample, or the error that ends the run; `bad`: its own record, where that was bad.

    Further bad ones that stood behind it in the order are counted at their own places.
    """

    made: Sample | dict[str, Any] | MaskcapError
    bad: tuple[BadSample, ...] = ()


@dataclass(frozen=True, eq=False)
class DrawnSamples(Dataset):
    """Samples by Draw. A user's mistake is returned, not raised: torch would wrap it in the worker's traceback.

    names: of the mixture's entries, in the sources' order; () outside of one.
    order: epoch → int64 (N, 2), the epoch's whole order as (source, index); read only to replace a bad sample.
    skip: replace a bad sample by the next of its epoch's order, made with the generator of the place that it takes; so
    the replacement depends on (seed, epoch, position) alone, and regions are drawn apart from the next one's own.
    """

    sources: Sequence[Sequence[Record]]
    seed: int
    options: SampleOptions
    order: Callable[[int], np.ndarray]
    skip: bool = False
    names: Sequence[str] = ()
    _orders: dict[int, np.ndarray] = field(default_factory=dict)
    _known: list[Mapping[int, DataError]] = field(default_factory=list)

    def __getitem__(self, draw: Draw) -> Drawn:
        bad: list[BadSample] = []
        for source, index in self._candidates(draw):
            made, key = self._make(source, index, sample_rng(self.seed, draw.epoch, draw.position))
            if not (self.skip and isinstance(made, DataError)):
                return Drawn(made, tuple(bad[:1]))
            bad.append(BadSample.of(key, made))
        message = f"no readable sample in {len(bad)} tries, the first: {bad[0].message} `maskcap check` lists every one"
        return Drawn(DataError(message, bad[0].reason), tuple(bad[:1]))

    def _make(self, source: int, index: int, rng: np.random.Generator) -> tuple[Any, str]:
        options = self.options
        key = None
        try:
            record = self.sources[source][index]
            key = record.key
            if options.sa2va is not None:
                return make_sa2va_sample(record, rng, options.sa2va), key
            made = make_sample(
                record,
                rng,
                image_size=options.image_size,
                regions_per_image=options.regions_per_image,
                caption_choice=options.caption_choice,
                phrase_choice=options.phrase_choice,
                frames_per_sample=options.frames_per_sample,
                frame_choice=options.frame_choice,
            )
            return replace(made, entry=self.names[source]) if self.names else made, key
        except MaskcapError as error:
            return error, key if key is not None else key_of(self.sources[source], index)

    def _candidates(self, draw: Draw) -> Iterator[tuple[int, int]]:
        """The draw's own record, then those behind it in the order, without the ones known to be bad."""
        yield draw.source, draw.index
        order_N2, known, tries = self._order(draw.epoch), self._known_bad(), 1
        for step in range(1, len(order_N2)):
            source, index = map(int, order_N2[(draw.position + step) % len(order_N2)])
            if index in known[source]:
                continue
            if tries == MAX_TRIES:
                return
            tries += 1
            yield source, index

    def _known_bad(self) -> list[Mapping[int, DataError]]:
        """Of each source; asked once, since a part of a source has to gather them."""
        if not self._known:
            self._known.extend(known_bad(source) for source in self.sources)
        return self._known

    def _order(self, epoch: int) -> np.ndarray:
        """The epoch's order, kept for the next bad sample; of one epoch at a time."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self.order(epoch)
        return self._orders[epoch]


def collate_drawn(items: Sequence[Drawn]) -> Batch | Sa2VABatch | MaskcapError:
    """Samples → Batch with what was passed over in `bad`; the first error instead where there is one."""
    samples: list[Any] = []
    for item in items:
        if isinstance(item.made, MaskcapError):
            return item.made
        samples.append(item.made)
    try:
        batch = Sa2VABatch.of(samples) if isinstance(samples[0], dict) else collate(samples)
    except MaskcapError as error:
        return error
    return replace(batch, bad=tuple(bad for item in items for bad in item.bad))


def collate_evaluation(items: Sequence[Drawn]) -> Batch | Sa2VABatch | MaskcapError:
    """As `collate_drawn`; samples in a bad one's place are padding: they have their own place too."""
    batch = collate_drawn(items)
    replaced = tuple(bool(item.bad) for item in items)
    return batch if isinstance(batch, MaskcapError) or not any(replaced) else replace(batch, padding=replaced)
