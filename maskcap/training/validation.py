"""Validation: what the loops predict on each set, scored and kept for pictures and files.

Masks are scored at S × S, the whole image resized (aspect ratio not kept), not at the original size: see
`metrics/masks.py` for what that changes. Each Prediction holds the original size.

Shapes: R regions of a batch, r of them predicted, S = image_size, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from maskcap.data.batch import Batch, denormalise
from maskcap.data.rle import encode_mask
from maskcap.loops.base import Loop, LoopPrediction, take
from maskcap.metrics.captions import CaptionMetrics
from maskcap.metrics.masks import MaskMetrics
from maskcap.metrics.meteor import Meteor
from maskcap.metrics.prediction import Prediction
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel

Picture: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]
Row: TypeAlias = tuple[int, int, Prediction]  # number of the set, of the image among the rank's of this set


class Validation:
    """Collects predictions over the batches of several sets.

    Metric names: `caption_…` for captions (`caption_truncated`: the share that was cut at the model's limit), `miou`,
    `ciou`, … for masks of phrases, `prompt_miou`, … for masks of points and boxes; each with the set's suffix.
    describe_sets: see MaskCaptionModule. In a distributed run images that only pad a rank's batches are passed over.
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
        self.masks = {(prefix, name): MaskMetrics() for prefix in ("", "prompt_") for name in self.set_names}

    @torch.no_grad()
    def update(self, model: MaskCaptionModel, batch: Batch, set_index: int) -> EncodedImages:
        """Predict and score one batch of set `set_index`; returns what was computed of its images."""
        name = self.set_names[set_index]
        encoded = model.encode(batch.image1, batch.sizes)
        images = batch.images_of(range(len(batch.region_ids)))
        padding = {r for r, image in enumerate(images) if batch.is_padding(image)}
        found = _blank_predictions(batch, name)
        masks: dict[int, torch.Tensor] = {}
        for loop in self.loops.values():
            if not self._runs(loop, batch, name):
                continue
            # padding is predicted too: sharded models need every rank in every forward
            prediction = loop.predict(model, batch, encoded).without(padding)
            if prediction.captions is not None:
                self._add_captions(prediction, batch, name, found)
            if prediction.mask_logits is not None:
                metric = self.masks["prompt_" if prediction.phrases is None else "", name]
                masks = _add_masks(prediction, batch, metric, found) | masks
        self._add_pictures(batch, found, masks, padding)
        kept = [(images[r], row) for r, rows in enumerate(found) if r not in padding for row in rows]
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
        values = _truncated_shares(self.gather())
        for name, metric in self.captions.items():
            metric.sync()
            values |= {f"{key}{_suffix(name)}": value for key, value in metric.compute().items()}
        for (prefix, name), metric in self.masks.items():
            metric.sync()
            scores = metric.compute()
            if scores.pop("count"):
                values |= {f"{prefix}{key}{_suffix(name)}": value for key, value in scores.items()}
        return values

    def _runs(self, loop: Loop, batch: Batch, name: str) -> bool:
        if loop.needs is None:
            return True
        if loop.needs == "phrases":
            return any(batch.phrases)
        if self.describe_sets is not None and name not in self.describe_sets:
            return False
        return any(caption is not None for caption in batch.caption)

    def _add_captions(self, prediction: LoopPrediction, batch: Batch, name: str, found: list[list[Prediction]]) -> None:
        scored = list(zip(prediction.regions, prediction.captions or [], strict=True))
        truncated = prediction.truncated or [None] * len(scored)
        for (r, text), cut in zip(scored, truncated, strict=True):
            found[r][0] = replace(found[r][0], predicted_caption=text, truncated=cut)
        scored = [(r, text) for r, text in scored if batch.references[r]]
        self.captions[name].update([text for _, text in scored], [batch.references[r] for r, _ in scored])

    def _add_pictures(
        self, batch: Batch, found: list[list[Prediction]], masks: dict[int, torch.Tensor], padding: set[int]
    ) -> None:
        room = self.picture_count - len(self.pictures)
        for r in [r for r in range(len(batch.region_ids)) if r not in padding][: max(room, 0)]:
            image = denormalise(batch.image1[batch.images_of([r])[0]]).permute(1, 2, 0).cpu().numpy()
            predicted = masks[r].numpy() if r in masks else None
            true = (batch.mask1[r] > 0.5).cpu().numpy()
            self.pictures.append(((image * 255).round().astype(np.uint8), true, predicted, found[r][0]))


def merge_ranks(parts: Sequence[Sequence[Row]]) -> list[Prediction]:
    """Each rank's rows, in the order in which one process would have made them: rank r has images r, r + world, …"""
    numbered = [
        (set_index, image, rank, number, prediction)
        for rank, rows in enumerate(parts)
        for number, (set_index, image, prediction) in enumerate(rows)
    ]
    return [row[-1] for row in sorted(numbered, key=lambda row: row[:-1])]


def _truncated_shares(predictions: Sequence[Prediction]) -> dict[str, float]:
    cut: dict[str, list[bool]] = {}
    for prediction in predictions:
        if prediction.truncated is not None:
            cut.setdefault(f"caption_truncated{_suffix(prediction.set_name)}", []).append(prediction.truncated)
    return {name: sum(flags) / len(flags) for name, flags in cut.items()}


def _suffix(name: str) -> str:
    return "" if name == "main" else f"_{name}"


def _add_masks(
    prediction: LoopPrediction, batch: Batch, metric: MaskMetrics, found: list[list[Prediction]]
) -> dict[int, torch.Tensor]:
    """Score one loop's masks at the size of the true ones; returns the first predicted mask bool (S, S) by region.

    A region's first mask goes into its first row; every further one (another phrase, another loop) is a further row.
    """
    logits = prediction.mask_logits
    if logits is None or not prediction.regions:
        return {}
    true = take(batch.mask1, prediction.regions) > 0.5
    size = (true.shape[-2], true.shape[-1])
    predicted = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
    ious = metric.update(predicted, true).tolist()
    predicted, true = predicted.cpu(), true.cpu()
    masks: dict[int, torch.Tensor] = {}
    for row, r in enumerate(prediction.regions):
        scored = replace(
            found[r][0],
            phrase=prediction.phrases[row] if prediction.phrases is not None else None,
            iou=ious[row],
            predicted_rle=encode_mask(predicted[row].numpy()),
            true_rle=encode_mask(true[row].numpy()),
        )
        if found[r][0].iou is None:
            found[r][0] = scored
        else:  # the caption stays on one row: who scores captions sees each once
            found[r].append(replace(scored, predicted_caption=None, truncated=None))
        masks.setdefault(r, predicted[row])
    return masks


def _blank_predictions(batch: Batch, set_name: str) -> list[list[Prediction]]:
    """One row for each region, in a list that further masks extend."""
    images = batch.images_of(range(len(batch.region_ids)))
    return [
        [
            Prediction(
                key=batch.keys[image],
                region_id=batch.region_ids[r],
                set_name=set_name,
                source=batch.sources[image],
                caption=batch.caption[r],
                references=tuple(batch.references[r]),
                phrase=batch.phrase[r],
                size=batch.sizes[image],
            )
        ]
        for r, image in enumerate(images)
    ]
