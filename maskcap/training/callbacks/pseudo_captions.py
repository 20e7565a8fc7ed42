"""What the model says of training masks without words, and the masks that it finds by its own words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

from maskcap.data.batch import normalise
from maskcap.data.collate import collate
from maskcap.data.sample import Sample, make_sample
from maskcap.data.source_facts import key_of
from maskcap.errors import ConfigError, DataError
from maskcap.loops.cycle import Cycle
from maskcap.metrics.masks import MaskMetrics
from maskcap.training.callbacks.pictures import show_picture
from maskcap.training.validation_pictures import frame_of
from maskcap.training.validation_rows import add_masks, blank_rows

if TYPE_CHECKING:
    from maskcap.training.validation_pictures import Picture

log = logging.getLogger(__name__)

_COLUMNS = 4  # of the grid


class PseudoCaptions(pl.Callback):
    """After every validation of a fit, writes `<run folder>/samples/pseudo_….png`: the true mask, the greedy
    caption of it, and the mask by this caption (in a pair's other frame); at the fit's end, logs the last captions.

    count: scenes, evenly spaced over the training sources without captions (of the trainer's data module); where there
    is no such source, nothing happens. regions: drawn of each, the same in every run. image_size: pixels a side; None:
    the data module's. batch_size: scenes of one forward.
    Samples are made once and kept; a bad one is left out with a warning. Every rank runs the model, rank 0 writes.
    Raises ConfigError for numbers out of range.
    """

    def __init__(self, count: int = 20, regions: int = 1, image_size: int | None = None, batch_size: int = 4) -> None:
        for name, value, least in (("count", count, 0), ("regions", regions, 1), ("batch_size", batch_size, 1)):
            if value < least:
                raise ConfigError(f"callbacks.pseudo_captions.{name}={value}: must be {least} or more")
        self.count = count
        self.regions = regions
        self.image_size = image_size
        self.batch_size = batch_size
        self._samples: list[Sample] | None = None
        self._said: list[Picture] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier fit."""
        self._samples, self._said = None, []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The sanity check is passed over."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._said = self.describe(trainer, pl_module)
        if self._said and trainer.is_global_zero:
            show_picture(trainer, _draw(self._said), "pseudo", "val/pseudo_captions", trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line for each caption of the last validation."""
        if trainer.is_global_zero:
            for *_, row in self._said:
                log.info("pseudo caption of %s region %s: %r (IoU %.2f)", row.key, row.region_id, row.phrase, row.iou)

    @torch.no_grad()
    def describe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Picture]:
        """By the model as it is, in the trainer's precision, of each region: the frame, its true and predicted mask,
        and the row, whose `phrase` is the caption and `iou` the masks' at S × S.
        """
        if self._samples is None:
            self._samples = self._load(getattr(trainer, "datamodule", None))
        loop, model = Cycle(weight=0.0), pl_module.model
        convert = trainer.precision_plugin.convert_input
        pictures: list[Picture] = []
        for samples in self._chunks(self._samples):
            batch = normalise(collate(samples).to(pl_module.device))
            given = replace(batch, image1=convert(batch.image1), image2=convert(batch.image2))
            with trainer.precision_plugin.val_step_context():
                prediction = loop.predict(model, given, model.encode(given.image1, given.sizes))  # type: ignore[arg-type,operator]
            found = add_masks(prediction, batch, MaskMetrics(), blank_rows(batch, "train"))
            for r, (mask, row) in found.items():
                pictures.append((*frame_of(batch, r, row), mask.numpy(), row))
        return pictures

    def _load(self, datamodule: Any) -> list[Sample]:
        if datamodule is None or not hasattr(datamodule, "has_captions"):
            return []
        captioned = datamodule.has_captions("train")
        talked = datamodule.has_turns("train")  # their words are answers: nothing to make up
        sources = [each for name, each in datamodule.train_sources.items() if not (captioned[name] or talked[name])]
        size = datamodule.image_size if self.image_size is None else self.image_size
        samples = []
        for number, source in enumerate(sources):
            wanted = min(len(source), self.count // len(sources) + (number < self.count % len(sources)))
            for index in [place * len(source) // wanted for place in range(wanted)]:
                rng = np.random.default_rng(index)
                try:
                    samples.append(
                        make_sample(
                            source[index],
                            rng,
                            image_size=size,
                            regions_per_image=self.regions,
                            caption_choice="first",
                            phrase_choice="first",
                        )
                    )
                except DataError as error:
                    log.warning("no pseudo caption of %s: %s", key_of(source, index), error)
        return samples

    def _chunks(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Batches of one kind: pairs of frames, or single images."""
        for _, alike in groupby(samples, key=lambda sample: sample.image2 is None):
            kind = list(alike)
            for start in range(0, len(kind), self.batch_size):
                yield kind[start : start + self.batch_size]


def _draw(pictures: Sequence[Picture]) -> np.ndarray:
    from maskcap.reports.figures import PredictionView, figure_to_array, prediction_grid

    views = [
        PredictionView(image, true, mask, None, row.phrase or "(empty)", name=f"{row.key} region {row.region_id}")
        for image, true, mask, row in pictures
    ]
    return figure_to_array(prediction_grid(views, columns=_COLUMNS, lines=None))
