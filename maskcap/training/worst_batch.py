"""The batches that need the most memory, of what the training sources hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from maskcap.data.batch import Batch
from maskcap.data.collate import collate
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.drawing import SampleOptions
from maskcap.data.record import Record
from maskcap.data.sample import make_sample
from maskcap.data.turns import grounded_regions, named_regions

RECORDS = 1000  # of each source that are looked at, evenly spread
MakeBatch: TypeAlias = Callable[[int], Batch]  # number of samples → uint8 batch, as workers hand it over


def worst_batches(data: MaskCaptionDataModule) -> list[MakeBatch]:
    """Batches of copies of one record each: of the one with the most regions, with the longest sentences; of the video
    with the most frames and masks in them; of the longest conversation. None twice, and regions have the longest
    caption of all records.

    Raises DataError for a record that cannot be read.
    """
    options = data.train_options
    records = [record for source in data.train_sources.values() for record in _spread(source)]
    caption = max(
        (text for record in records for region in record.regions1 for text in region.captions), key=len, default=""
    )
    worst = [max(records, key=lambda record: _of_regions(record, options))]
    videos = [record for record in records if record.frames]
    worst += [max(videos, key=lambda record: _of_frames(record, options))] if videos else []
    talks = [record for record in records if record.turns]
    worst += [max(talks, key=_of_words)] if talks else []
    different = {id(record): record for record in worst}.values()
    return [_copies(record, options, caption) for record in different]


def _copies(record: Record, options: SampleOptions, caption: str) -> MakeBatch:
    sample = make_sample(
        record,
        np.random.default_rng(0),
        image_size=options.image_size,
        regions_per_image=options.regions_per_image,
        frames_per_sample=options.frames_per_sample,
    )

    def of(size: int) -> Batch:
        """As many as asked for."""
        batch = collate([sample] * size)
        said = [None if text is None else caption for text in batch.caption]
        asked = [None if text is None else caption for text in batch.phrase]
        return replace(batch, caption=said, phrase=asked)

    return of


def _spread(source: Sequence[Record]) -> list[Record]:
    step = max(1, len(source) // RECORDS)
    return [source[index] for index in range(0, len(source), step)]


def _of_regions(record: Record, options: SampleOptions) -> tuple[int, int]:
    """The regions that a sample of it can have, and the characters of their longest sentences."""
    spoken = {*named_regions(record.turns), *grounded_regions(record.turns)}
    others = [region for i, region in enumerate(record.regions1) if i not in spoken]
    lengths = sorted((max(map(len, region.captions), default=0) for region in others), reverse=True)
    taken = lengths if options.regions_per_image is None else lengths[: options.regions_per_image]
    return len(spoken) + len(taken), sum(taken)


def _of_frames(record: Record, options: SampleOptions) -> tuple[int, int]:
    """The frames that a sample of it shows, and the masks in them."""
    frames = min(len(record.frames), options.frames_per_sample)
    return frames, frames * _of_regions(record, options)[0]


def _of_words(record: Record) -> int:
    """The characters of its conversation."""
    return sum(len(turn.question) + len(turn.answer) for turn in record.turns)
