"""Validation: what the loops predict on each set, scored and kept for pictures and files.

Masks are scored at S × S, the whole image resized (aspect ratio not kept), not at the original size: see
`metrics/masks.py` for what that changes. Each Prediction holds the original size.

Shapes: B samples and R regions of a batch, S = image_size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, LoopPrediction
from maskcap.metrics.captions import CaptionMetrics
from maskcap.metrics.masks import MaskMetrics
from maskcap.metrics.meteor import Meteor
from maskcap.metrics.prediction import Prediction
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.validation_answers import AnswerRow, AnswerScores
from maskcap.training.validation_pictures import Picture, Shown, pictures_of, shows_more
from maskcap.training.validation_rows import (
    PREFIXES,
    Row,
    add_masks,
    blank_rows,
    caption_counts,
    merge_ranks,
    says_something,
    suffix,
)


class Validation:
    """Collects predictions over the batches of several sets.

    Metric names: `caption_…` for captions (`caption_truncated`: the share that was cut at the model's limit), `miou`,
    `ciou`, … for masks of phrases, `prompt_miou`, … for masks of points and boxes, `cycle_miou`, … for masks of the
    model's own captions, `cross_frame_miou`, … for those in the other frame, `cycle_distinct` and `cycle_words` of the
    captions of both, `answer_…` and `gcg_…` for answers (see AnswerScores); each with the set's suffix. A phrase's mask
    in each frame of a video counts by itself. describe_sets: see MaskCaptionModule. In a distributed run images that
    only pad a rank's batches are passed over.
    """

    def __init__(
        self,
        loops: Mapping[str, Loop],
        describe_sets: Sequence[str] | None,
        *,
        meteor: bool = True,
        pictures: int = 8,
    ) -> None:
        self.loops = loops
        self.describe_sets = describe_sets
        self.picture_count = pictures
        # one Java process for all sets and validations: it takes seconds to start, which it does on first use
        self._meteor: Meteor | bool = Meteor() if meteor else False
        self.reset(["main"])

    def reset(self, set_names: Sequence[str]) -> None:
        """Start over for these sets, in the order of the loaders.

        Every metric exists from here on, also where this rank sees no batch of a set: ranks sum them together.
        """
        self.set_names = list(set_names)
        self.predictions: list[Prediction] = []
        self._rows: list[Row] = []
        self._images = [0] * len(self.set_names)
        self._gathered = False
        self.pictures: list[Picture] = []
        self.captions = {name: CaptionMetrics(meteor=self._meteor) for name in self.set_names}
        self.answers = {name: AnswerScores(self._meteor) for name in self.set_names}
        self.masks = {(prefix, name): MaskMetrics() for prefix in PREFIXES.values() for name in self.set_names}

    @torch.no_grad()
    def update(self, model: MaskCaptionModel, batch: Batch, set_index: int) -> EncodedImages:
        """Predict and score one batch of set `set_index`; returns what was computed of its images."""
        name = self.set_names[set_index]
        encoded = model.encode(batch.images, batch.image_sizes, batch.groups)
        owners = batch.images_of(range(len(batch.region_ids)))
        filling = {image for image in range(len(batch.keys)) if batch.is_padding(image)}
        padding = {r for r, image in enumerate(owners) if image in filling}
        found = blank_rows(batch, name)
        shown: dict[int, Shown] = {}
        answers: dict[int, AnswerRow] = {}
        for loop in self.loops.values():
            if not self._runs(loop, batch, name):
                continue
            # padding is predicted too: sharded models need every rank in every forward
            prediction = loop.predict(model, batch, encoded).without(padding, filling)
            if prediction.captions is not None:
                self._add_captions(prediction, batch, name, found)
            if prediction.mask_logits is not None:
                metric = self.masks[PREFIXES[prediction.score], name]
                for r, scored in add_masks(prediction, batch, metric, found).items():
                    if r not in shown or shows_more(scored[1], shown[r][1]):
                        shown[r] = scored
            if prediction.answers is not None:
                answers |= self.answers[name].update(prediction.answers, batch, name, found)
        room = max(self.picture_count - len(self.pictures), 0)
        self.pictures += islice(pictures_of(batch, found, shown, answers), room)
        kept = [(image, answer.row) for image, answer in answers.items()]
        for r, rows in enumerate(found):
            if r not in padding and (owners[r] not in answers or rows[0].score or says_something(rows[0])):
                kept += [(owners[r], row) for row in rows]
        kept.sort(key=lambda row: row[0])
        self._rows += [(set_index, self._images[set_index] + image, row) for image, row in kept]
        self.predictions += [row for _, row in kept]
        self._images[set_index] += len(batch.keys)
        return encoded

    def gather(self) -> list[Prediction]:
        """The predictions of all ranks, in the order of one process; every rank must call it; again is a no-op."""
        if not self._gathered and dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._rows)
            self.predictions = merge_ranks(parts)
        self._gathered = True
        return self.predictions

    def compute(self) -> dict[str, float]:
        """All metrics by name, of all ranks; a set that no loop predicted has none. Every rank must call it."""
        values = caption_counts(self.gather())
        for name, metric in self.captions.items():
            metric.sync()
            values |= {f"{key}{suffix(name)}": value for key, value in metric.compute().items()}
        for name, scores in self.answers.items():
            scores.sync()
            values |= {f"{key}{suffix(name)}": value for key, value in scores.compute().items()}
        for (prefix, name), metric in self.masks.items():
            metric.sync()
            scores = metric.compute()
            if scores.pop("count"):
                values |= {f"{prefix}{key}{suffix(name)}": value for key, value in scores.items()}
        return values

    def _runs(self, loop: Loop, batch: Batch, name: str) -> bool:
        if loop.generates and self.describe_sets is not None and name not in self.describe_sets:
            return False
        if loop.needs == "turns":
            return any(batch.turns)
        if loop.needs == "phrases":
            return any(batch.phrases)
        if loop.needs == "captions":
            return any(caption is not None for caption in batch.caption)
        return bool(batch.region_ids)

    def _add_captions(self, prediction: LoopPrediction, batch: Batch, name: str, found: list[list[Prediction]]) -> None:
        """A region's first caption counts; another loop's caption of it is passed over."""
        captions = prediction.captions or []
        scored = []
        truncated = prediction.truncated or [None] * len(captions)
        for r, text, cut in zip(prediction.regions, captions, truncated, strict=True):
            if found[r][0].predicted_caption is None:
                found[r][0] = replace(found[r][0], predicted_caption=text, truncated=cut)
                scored += [(r, text)] if batch.references[r] else []
        self.captions[name].update([text for _, text in scored], [batch.references[r] for r, _ in scored])
