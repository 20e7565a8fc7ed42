"""What a validation saw: its images' tilings, and the first images themselves; for `maskcap tokens sweep`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning.pytorch as pl

from maskcap.data.batch import Batch
from maskcap.models.component_times import ImageCase
from maskcap.models.mask_caption import MaskCaptionModel


class SeenImages(pl.Callback):
    """Counts the images (frames) of a validation by their `tilings` (rows, columns), (0, 0) for a single view, and
    keeps the first `images` of its first set as `cases`, on the host. Images that only fill a batch are passed over.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.tilings: Counter[tuple[int, int]] = Counter()
        self.tokens: Counter[int] = Counter()  # of an image of one view
        self.cases: list[ImageCase] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the last validation."""
        self.tilings.clear()
        self.tokens.clear()
        self.cases = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the batch's tilings, and keeps its images while there is room."""
        rule = pl_module.model.tiling_rule  # type: ignore[union-attr]
        owners = [*range(len(batch.keys)), *batch.frame_owner]
        seen = [not (batch.is_padding(owner) or batch.is_blank(owner)) for owner in owners]
        sizes = [size for size, there in zip(batch.image_sizes, seen, strict=True) if there]
        self.tilings.update((0, 0) if rule is None else rule.choose(*size) for size in sizes)  # type: ignore[operator]
        costs = zip(pl_module.last_tokens, seen, strict=False)  # type: ignore[arg-type]
        self.tokens.update(tokens for (tokens, _), there in costs if there)
        if dataloader_idx == 0:
            self.cases += _cases(batch, self.images - len(self.cases))

    def mean_costs(self, model: MaskCaptionModel) -> tuple[float, float]:
        """Tokens that the vision encoder computes for the mean image, and those that the language model reads."""
        rule = model.tiling_rule
        if rule is None:
            images = self.tokens.total()
            tokens = sum(each * count for each, count in self.tokens.items()) / images if images else 0.0
            return tokens, tokens
        if not self.tilings:
            return 0.0, 0.0
        return rule.geometry.mean_costs(self.tilings, model.vision_tokens.global_view)  # type: ignore[union-attr]


def _cases(batch: Batch, room: int) -> list[ImageCase]:
    """Up to `room` images of the batch, each with its first region."""
    images = batch.images_of(range(len(batch.region_ids)))
    found = []
    for image, size in enumerate(batch.sizes):
        if len(found) < room and image in images and not batch.is_padding(image):
            region = images.index(image)
            # cloned: not the whole batch is kept, and what was made in inference mode is of use outside
            one, mask1 = batch.image1[image : image + 1].cpu().clone(), batch.mask1[region : region + 1].cpu().clone()
            phrase = batch.phrase[region] or batch.caption[region] or "the object"
            found.append(ImageCase(one, mask1, size, phrase))
    return found
