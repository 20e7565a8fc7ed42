"""Caption → mask: the phrase in the prompt, [SEG] in the answer, SAM2's mask against the region's.

Shapes: r regions with a phrase, T image tokens, M low-res mask side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maskcap.loops.asked_regions import AskedRegions
from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn
from maskcap.loops.outputs import weighted_sum
from maskcap.loops.phrase_losses import PHRASE_LOSSES, phrase_losses
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading


class CaptionToMask(Loop):
    """Learns the masks of the regions that have a phrase, in every frame of a video.

    ce_weight, dice_weight: of the mask loss (Sa2VA's 2.0 and 0.5). answer_weight: of the cross-entropy on the answer
    that holds [SEG]. grounding_weight, contrast_weight: of the grounding map's losses, where the model has one.
    sampled_points: mask loss on that many uncertain points (Sa2VA: 12 544) instead of all of the logits' pixels.
    """

    needs: Need | None = "phrases"
    same_on_every_rank = True

    def __init__(
        self,
        weight: float = 1.0,
        ce_weight: float = 2.0,
        dice_weight: float = 0.5,
        answer_weight: float = 0.1,
        grounding_weight: float = 1.0,
        contrast_weight: float = 1.0,
        sampled_points: int | None = None,
    ) -> None:
        self.weight = weight
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.answer_weight = answer_weight
        self.grounding_weight = grounding_weight
        self.contrast_weight = contrast_weight
        self.sampled_points = sampled_points

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Weighted sum of the losses above; each is logged by its name."""
        keep_image = context.keep_image()  # drawn by every rank, also by one without phrases
        regions = self.regions_of(batch, context.progress)
        chosen = context.or_stand_in(regions)
        if not chosen:
            return nothing_to_learn(model)
        phrases = [batch.phrase[index] or "" for index in chosen]
        questions = model.phrase_questions(
            phrases, batch.images_of(chosen), keep_image=keep_image, names=batch.names_of(chosen)
        )
        asked = AskedRegions.of(batch, chosen, phrases, stand_in=not regions, by_entry=context.by_entry)
        if context.use_segmenter:
            context.encoded.want_masks(batch.images_with(chosen))

        def finish(reading: Reading | None) -> LoopOutput:
            """The losses of the phrases' reading."""
            assert reading is not None
            parts, by_entry = phrase_losses(self, model, asked, reading, context.encoded, context)
            if not parts:
                return LoopOutput(reading.seg_states.sum() * 0.0, {})
            return weighted_sum(parts, PHRASE_LOSSES, asked.counts(reading), by_entry)

        return Ask(finish, questions)

    def contrasts(self, model: MaskCaptionModel, progress: float) -> bool:
        """With a grounding map."""
        return model.grounding is not None

    @torch.no_grad()
    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Mask logits of every phrase of every region, in every frame; a region with several phrases comes several
        times."""
        asked = [(r, phrase) for r, phrases in enumerate(batch.phrases) for phrase in phrases]
        if not asked:
            return LoopPrediction([])
        regions, phrases = [r for r, _ in asked], [phrase for _, phrase in asked]
        of_masks = batch.masks_of(regions)
        rows, masks = [row for row, _ in of_masks], [mask for _, mask in of_masks]
        images = [batch.mask_images[mask] for mask in masks]
        questions = model.phrase_questions(phrases, batch.images_of(regions), names=batch.names_of(regions))
        encoded.want_masks(images)
        (reading,) = model.read(encoded, [questions])
        (region_image,) = to_device([torch.tensor(images)], batch.device)
        logits = model.masks_of(encoded, take(reading.seg_states, rows), region_image)
        return LoopPrediction(
            [regions[row] for row in rows], phrases=[phrases[row] for row in rows], mask_logits=logits, masks=masks
        )
