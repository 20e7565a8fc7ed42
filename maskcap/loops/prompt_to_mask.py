"""Prompt → mask: SAM2 from points and boxes, for masks without words.

Shapes: R regions, H × W masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn
from maskcap.loops.outputs import weighted_sum
from maskcap.loops.phrase_losses import MASK_LOSSES, mask_losses
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading


class PromptToMask(Loop):
    """Each step prompts with one point inside each mask, or with its box, by a fair coin of the step's generator.

    box_jitter: uniform noise on the box's sides, as a share of its width and height. Evaluation uses exact boxes.
    """

    needs: Need | None = None
    same_on_every_rank = True

    def __init__(
        self,
        weight: float = 1.0,
        ce_weight: float = 2.0,
        dice_weight: float = 0.5,
        box_jitter: float = 0.1,
        sampled_points: int | None = None,
    ) -> None:
        self.weight = weight
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.box_jitter = box_jitter
        self.sampled_points = sampled_points

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Mask loss of the prompted masks; logs `loss`, `mask_ce`, `mask_dice`. The language model has no part."""

        seen = self.regions_of(batch, context.progress)
        chosen = context.or_stand_in(seen)
        if not chosen:
            return nothing_to_learn(model)
        images = batch.images_of(chosen)
        context.encoded.want_masks(images)

        def finish(_: Reading | None) -> LoopOutput:
            """The prompted masks' losses."""
            masks, region_image = take(batch.mask1, chosen), take(batch.region_image, chosen)
            logits = self._logits(model, masks, region_image, context)
            entries = batch.entries_of(chosen) if context.by_entry and seen else ()
            parts, by_entry = mask_losses(self, model.segmenter, logits, masks, context.noise, entries)
            return weighted_sum(parts, MASK_LOSSES, {"regions": len(seen)}, by_entry)

        return Ask(finish)

    def _logits(
        self, model: MaskCaptionModel, masks: torch.Tensor, region_image: torch.Tensor, context: StepContext
    ) -> torch.Tensor:
        """Low-res mask logits (r, M, M) from points or boxes, by the coin."""
        segmenter, noise = model.segmenter, context.noise
        if torch.rand((), generator=context.generator).item() < 0.5:
            points = random_points(masks, noise)[:, None]
            sparse = segmenter.embed_points(points, torch.ones_like(points[..., 0], dtype=torch.int64))
        else:
            sparse = segmenter.embed_boxes(self._jitter(mask_boxes(masks), noise))
        context.encoded.work.masks += masks.shape[0]
        return segmenter.decode(context.encoded.segmenter, region_image, sparse)

    @torch.no_grad()
    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Mask logits of all regions that are to be seen, from their exact boxes."""
        regions = self.regions_of(batch, 1.0)
        if not regions:
            return LoopPrediction([])
        encoded.want_masks(batch.images_of(regions))
        sparse = model.segmenter.embed_boxes(mask_boxes(take(batch.mask1, regions)))
        logits = model.segmenter.decode(encoded.segmenter, take(batch.region_image, regions), sparse)
        return LoopPrediction(regions, mask_logits=logits, score="prompts")

    def _jitter(self, boxes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = to_device([2 * torch.rand(boxes.shape, generator=generator) - 1], boxes.device)[0] * self.box_jitter
        return (boxes + noise * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)).clamp(0, 1)


def mask_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Masks (R, H, W) → (x0, y0, x1, y1) as shares of the image, float32 (R, 4); an empty mask gives (0, 0, 1, 1).

    No host–device sync.
    """

    def ends(present_RN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last place that is present, as shares of the length, (R,) each."""
        length = present_RN.shape[1]
        first = present_RN.int().argmax(dim=1)
        last = length - present_RN.flip(1).int().argmax(dim=1)
        return first / length, last / length

    inside = masks > 0.5
    x0, x1 = ends(inside.any(dim=1))
    y0, y1 = ends(inside.any(dim=2))
    return torch.stack([x0, y0, x1, y1], dim=1)


def random_points(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A uniform random pixel inside each mask (R, H, W) → its centre (x, y) as shares of the image, float32 (R, 2).

    One number is drawn for each mask: u gives its ⌊u·n⌋-th of n set pixels. No host–device sync. An empty mask gives
    the image's last pixel.
    """
    regions, height, width = masks.shape
    (draw_R,) = to_device([torch.rand(regions, generator=generator, dtype=torch.float64)], masks.device)
    reached_RN = (masks > 0.5).flatten(1).cumsum(dim=1, dtype=torch.int32)
    count_R = reached_RN[:, -1]
    wanted_R = torch.minimum((draw_R * count_R).int() + 1, count_R).clamp_min(1)
    index = torch.searchsorted(reached_RN, wanted_R[:, None])[:, 0].clamp_max(height * width - 1)
    y, x = index // width, index % width
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=1).float().view(regions, 2)
