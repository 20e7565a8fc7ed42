"""Caption → mask: the phrase in the prompt, [SEG] in the answer, SAM2's mask against the region's.

Shapes: r regions with a phrase, T image tokens, M low-res mask side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from maskcap.loops.base import (
    Ask,
    Loop,
    LoopOutput,
    LoopPrediction,
    Need,
    StepContext,
    nothing_to_learn,
    weighted_sum,
)
from maskcap.losses import (
    dice_loss,
    grounding_loss,
    phrase_contrast,
    region_keys,
    resize_targets,
    sample_uncertain,
    sigmoid_ce_loss,
)
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segmenter import Segmenter


class CaptionToMask(Loop):
    """Learns the masks of the regions that have a phrase.

    ce_weight, dice_weight: of the mask loss (Sa2VA's 2.0 and 0.5). answer_weight: of the cross-entropy on the answer
    that holds [SEG]. grounding_weight, contrast_weight: of the grounding map's losses, where the model has one.
    sampled_points: mask loss on that many uncertain points (Sa2VA: 12 544) instead of all of the logits' pixels.
    """

    needs: Need | None = "phrases"

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
        chosen = self.regions_of(batch, context.progress)
        if not chosen:
            return nothing_to_learn(model)
        phrases = [batch.phrase[index] or "" for index in chosen]
        questions = model.phrase_questions(
            phrases, batch.images_of(chosen), keep_image=keep_image, names=batch.names_of(chosen)
        )
        asked = AskedRegions(phrases, take(batch.mask1, chosen), take(batch.region_image, chosen))

        def finish(reading: Reading | None) -> LoopOutput:
            assert reading is not None
            parts = phrase_losses(self, model, asked, reading, context.encoded, context)
            return weighted_sum(parts) if parts else LoopOutput(reading.seg_states.sum() * 0.0, {})

        return Ask(finish, questions)

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Mask logits of every phrase of every region; a region with several phrases comes several times."""
        asked = [(r, phrase) for r, phrases in enumerate(batch.phrases) for phrase in phrases]
        regions, phrases = [r for r, _ in asked], [phrase for _, phrase in asked]
        if not asked:
            return LoopPrediction([])
        region_image = take(batch.region_image, regions)
        logits = model.segment(batch.image1, phrases, region_image, encoded=encoded, names=batch.names_of(regions))
        return LoopPrediction(regions, phrases=phrases, mask_logits=logits)


@dataclass(frozen=True)
class AskedRegions:
    """The r regions asked for: phrases, masks (r, H, W), the image of each."""

    phrases: list[str]
    mask1: torch.Tensor
    region_image: torch.Tensor


class MaskLossSettings(Protocol):
    """The settings that caption → mask and prompt → mask share."""

    ce_weight: float
    dice_weight: float
    sampled_points: int | None


class PhraseLossSettings(MaskLossSettings, Protocol):
    """The settings that caption → mask and the cycle's second half share."""

    answer_weight: float
    grounding_weight: float
    contrast_weight: float


def phrase_losses(
    settings: PhraseLossSettings,
    model: MaskCaptionModel,
    asked: AskedRegions,
    reading: Reading,
    encoded: EncodedImages,
    context: StepContext,
) -> dict[str, tuple[float, torch.Tensor]]:
    """Each loss of phrases read with their images (`encoded`), with its weight, by name."""
    seg_states = reading.seg_states
    parts: dict[str, tuple[float, torch.Tensor]] = {}
    if settings.answer_weight:
        parts["answer"] = settings.answer_weight, model.answer_loss(encoded, reading)
    grounding_map = None
    if model.grounding is not None:
        grounding_map, losses = _ground(settings, model, asked, seg_states, encoded)
        parts |= losses
    if context.use_segmenter:
        logits = model.mask_logits(encoded, seg_states, asked.region_image, grounding_map)
        parts |= mask_losses(settings, model.segmenter, logits, asked.mask1, context.noise)
    return parts


def _ground(
    settings: PhraseLossSettings,
    model: MaskCaptionModel,
    asked: AskedRegions,
    seg_states: torch.Tensor,
    encoded: EncodedImages,
) -> tuple[torch.Tensor, dict[str, tuple[float, torch.Tensor]]]:
    """The grounding map (r, T) and its losses."""
    head, keys, valid = model.grounding, encoded.keys, encoded.tokens.valid
    assert head is not None
    queries = head.queries(seg_states)
    grounding_map = head(queries, keys, asked.region_image, valid)
    covered = model.coverage(encoded.tokens, asked.mask1, asked.region_image)
    valid = None if valid is None else valid.index_select(0, asked.region_image)
    same = torch.tensor([[a == b for b in asked.phrases] for a in asked.phrases])
    (same,) = to_device([same], seg_states.device)
    contrast = phrase_contrast(queries, region_keys(keys, covered, asked.region_image), same, head.scale)
    return grounding_map, {
        "grounding": (settings.grounding_weight, grounding_loss(grounding_map, covered, valid)),
        "contrast": (settings.contrast_weight, contrast),
    }


def mask_losses(
    settings: MaskLossSettings,
    segmenter: Segmenter,
    logits: torch.Tensor,
    mask1: torch.Tensor,
    generator: torch.Generator,
) -> dict[str, tuple[float, torch.Tensor]]:
    """Sigmoid CE and dice of low-res logits (r, M, M) against masks (r, H, W), each with its weight.

    Dense: the masks are resized to the logits as the segmenter says. Sampled: both are read at uncertain points.
    """
    if settings.sampled_points is None:
        targets = resize_targets(mask1, (logits.shape[-2], logits.shape[-1]), segmenter.target_resize)
    else:
        logits, targets = sample_uncertain(logits, mask1, settings.sampled_points, generator)
        logits, targets = logits[:, None], targets[:, None]
    return {
        "mask_ce": (settings.ce_weight, sigmoid_ce_loss(logits, targets)),
        "mask_dice": (settings.dice_weight, dice_loss(logits, targets)),
    }
