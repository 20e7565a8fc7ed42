"""Validation: what the loops predict on each set, scored and kept for pictures and files.

Shapes: R regions of a batch, r of them predicted, S image side, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.data.batch import Batch, denormalise
from maskcap.data.rle import encode_mask
from maskcap.loops.base import Loop, LoopPrediction, take
from maskcap.metrics.captions import CaptionMetrics
from maskcap.metrics.masks import MaskMetrics
from maskcap.metrics.meteor import Meteor
from maskcap.metrics.prediction import Prediction
from maskcap.models.mask_caption import MaskCaptionModel

Picture = tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]


class Validation:
    """Collects predictions over the batches of several sets.

    Metric names: `caption_…` for captions, `miou`, `ciou`, … for masks of phrases, `prompt_miou`, … for masks of
    points and boxes; each with the set's suffix. describe_sets: see MaskCaptionModule.
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
        self.pictures: list[Picture] = []
        self.captions = {name: CaptionMetrics(meteor=self._meteor) for name in self.set_names}
        self.masks = {(prefix, name): MaskMetrics() for prefix in ("", "prompt_") for name in self.set_names}

    @torch.no_grad()
    def update(self, model: MaskCaptionModel, batch: Batch, set_index: int) -> None:
        """Predict and score one batch of set `set_index`."""
        name = self.set_names[set_index]
        encoded = model.encode(batch.image1)
        found = _blank_predictions(batch, name)
        masks: dict[int, torch.Tensor] = {}
        for loop in self.loops.values():
            if not self._runs(loop, batch, name):
                continue
            prediction = loop.predict(model, batch, encoded)
            if prediction.captions is not None:
                self._add_captions(prediction, batch, name, found)
            if prediction.mask_logits is not None:
                metric = self.masks["" if loop.needs_captions else "prompt_", name]
                masks |= _add_masks(prediction, batch, metric, found)
        self._add_pictures(batch, found, masks)
        self.predictions += found

    def compute(self) -> dict[str, float]:
        """All metrics by name, ranks summed; a set that no loop predicted has none."""
        values: dict[str, float] = {}
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
        if not loop.needs_captions:
            return True
        describes = type(loop).__name__ == "MaskToCaption"
        if describes and self.describe_sets is not None and name not in self.describe_sets:
            return False
        return any(caption is not None for caption in batch.caption)

    def _add_captions(self, prediction: LoopPrediction, batch: Batch, name: str, found: list[Prediction]) -> None:
        scored = list(zip(prediction.regions, prediction.captions or [], strict=True))
        for r, text in scored:
            found[r] = replace(found[r], predicted_caption=text)
        scored = [(r, text) for r, text in scored if batch.references[r]]
        self.captions[name].update([text for _, text in scored], [batch.references[r] for r, _ in scored])

    def _add_pictures(self, batch: Batch, found: list[Prediction], masks: dict[int, torch.Tensor]) -> None:
        room = self.picture_count - len(self.pictures)
        for r in range(min(room, len(batch.region_ids))):
            image = denormalise(batch.image1[batch.images_of([r])[0]]).permute(1, 2, 0).cpu().numpy()
            predicted = masks[r].numpy() if r in masks else None
            true = (batch.mask1[r] > 0.5).cpu().numpy()
            self.pictures.append(((image * 255).round().astype(np.uint8), true, predicted, found[r]))


def _suffix(name: str) -> str:
    return "" if name == "main" else f"_{name}"


def _add_masks(
    prediction: LoopPrediction, batch: Batch, metric: MaskMetrics, found: list[Prediction]
) -> dict[int, torch.Tensor]:
    """Score one loop's masks at the size of the true ones; returns the first predicted mask bool (S, S) by region."""
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
            found[r],
            phrase=prediction.phrases[row] if prediction.phrases is not None else None,
            iou=ious[row],
            predicted_rle=encode_mask(predicted[row].numpy()),
            true_rle=encode_mask(true[row].numpy()),
        )
        if r in masks:  # a further phrase of the same region is a further prediction
            found.append(scored)
        else:
            found[r] = scored
            masks[r] = predicted[row]
    return masks


def _blank_predictions(batch: Batch, set_name: str) -> list[Prediction]:
    images = batch.images_of(range(len(batch.region_ids)))
    return [
        Prediction(
            key=batch.keys[image],
            region_id=batch.region_ids[r],
            set_name=set_name,
            source=batch.sources[image],
            caption=batch.caption[r],
            references=tuple(batch.references[r]),
            phrase=batch.phrase[r],
        )
        for r, image in enumerate(images)
    ]
