"""Caption → mask: the phrase in the prompt, [SEG] in the answer, SAM2's mask against the region's.

Shapes: r regions with a phrase, T image tokens, M low-res mask side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from maskcap.loops.base import LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn, take
from maskcap.losses import (
    caption_loss,
    dice_loss,
    grounding_loss,
    phrase_contrast,
    region_keys,
    resize_targets,
    sample_uncertain,
    sigmoid_ce_loss,
)
from maskcap.models.region_prompt import coverage
from maskcap.models.transfer import to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.mask_caption import EncodedImages, MaskCaptionModel, Phrases
    from maskcap.models.segmenter import Segmenter


class CaptionToMask:
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

    def __call__(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> LoopOutput:
        """Weighted sum of the losses above; each is logged by its name."""
        chosen = [index for index, phrase in enumerate(batch.phrase) if phrase is not None]
        if not chosen:
            return nothing_to_learn(model)
        phrases = [batch.phrase[index] or "" for index in chosen]
        mask1, region_image = take(batch.mask1, chosen), take(batch.region_image, chosen)
        tokens = context.encoded.tokens
        read = model.read_phrases(
            context.encoded,
            phrases,
            batch.images_of(chosen),
            keep_image=context.keep_image(),
            names=batch.names_of(chosen),
        )
        parts: dict[str, tuple[float, torch.Tensor]] = {"answer": (self.answer_weight, self._answer_loss(model, read))}
        grounding_map = None
        if model.grounding is not None:
            grounding_map = self._ground(model, read.seg_states, mask1, region_image, phrases, context, parts)
        if context.use_segmenter:
            logits = model.mask_logits(
                context.encoded.segmenter, read.seg_states, region_image, grounding_map, tokens.layout.grid
            )
            parts |= mask_losses(self, model.segmenter, logits, mask1, context.noise)
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        logs = {name: value.detach() for name, (_, value) in parts.items()}
        return LoopOutput(loss, {"loss": loss.detach(), **logs})

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Mask logits of every phrase of every region; a region with several phrases comes several times."""
        asked = [(r, phrase) for r, phrases in enumerate(batch.phrases) for phrase in phrases]
        regions, phrases = [r for r, _ in asked], [phrase for _, phrase in asked]
        if not asked:
            return LoopPrediction([])
        region_image = take(batch.region_image, regions)
        logits = model.segment(batch.image1, phrases, region_image, encoded=encoded, names=batch.names_of(regions))
        return LoopPrediction(regions, phrases=phrases, mask_logits=logits)

    def _answer_loss(self, model: MaskCaptionModel, read: Phrases) -> torch.Tensor:
        states = read.states.flatten(0, 1).index_select(0, read.sequences.answer_positions)
        return caption_loss(model.vlm.head(states), read.sequences.answer_ids)  # type: ignore[operator]

    def _ground(
        self,
        model: MaskCaptionModel,
        seg_states: torch.Tensor,
        mask1: torch.Tensor,
        region_image: torch.Tensor,
        phrases: list[str],
        context: StepContext,
        parts: dict[str, tuple[float, torch.Tensor]],
    ) -> torch.Tensor:
        """The grounding map (r, T), its losses added to `parts`."""
        head, keys, grid = model.grounding, context.encoded.keys, context.encoded.tokens.layout.grid
        assert head is not None and grid is not None
        queries = head.queries(seg_states)
        grounding_map = head(queries, keys, region_image)
        covered = coverage(mask1, grid[0])
        same = to_device([torch.tensor([[a == b for b in phrases] for a in phrases])], seg_states.device)[0]
        contrast = phrase_contrast(queries, region_keys(keys, covered, region_image), same, head.scale)
        parts["grounding"] = (self.grounding_weight, grounding_loss(grounding_map, covered))
        parts["contrast"] = (self.contrast_weight, contrast)
        return grounding_map


class MaskLossSettings(Protocol):
    """The settings that caption → mask and prompt → mask share."""

    ce_weight: float
    dice_weight: float
    sampled_points: int | None


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
