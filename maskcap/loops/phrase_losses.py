"""The losses of masks, and of phrases read with their images.

Shapes: r regions with a phrase, T image tokens, M low-res mask side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from maskcap.loops.base import StepContext
from maskcap.loops.outputs import Over
from maskcap.losses import (
    dice_loss,
    grounding_loss,
    phrase_contrast,
    region_keys,
    resize_targets,
    sample_uncertain,
    sigmoid_ce_loss,
)
from maskcap.models.transfer import to_device

if TYPE_CHECKING:
    from maskcap.loops.global_batch import GlobalBatch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segmenter import Segmenter


@dataclass(frozen=True)
class AskedRegions:
    """The r regions asked for: phrases, masks (r, H, W), the image of each. stand_in: they count nothing."""

    phrases: list[str]
    mask1: torch.Tensor
    region_image: torch.Tensor
    stand_in: bool = False

    def counts(self, reading: Reading) -> dict[Over, int]:
        """What the means of `phrase_losses` are over."""
        return {
            "regions": 0 if self.stand_in else len(self.phrases),
            "answers": 0 if self.stand_in else reading.answer_ids.numel(),
        }


MASK_LOSSES: dict[str, Over] = {"mask_ce": "regions", "mask_dice": "regions"}  # what each is a mean over
PHRASE_LOSSES: dict[str, Over] = {"answer": "answers", "grounding": "regions", "contrast": "regions", **MASK_LOSSES}


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
        grounding_map, losses = _ground(settings, model, asked, seg_states, encoded, context.ranks)
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
    ranks: GlobalBatch | None,
) -> tuple[torch.Tensor, dict[str, tuple[float, torch.Tensor]]]:
    """The grounding map (r, T) and its losses."""
    head, keys, valid = model.grounding, encoded.keys, encoded.tokens.valid
    assert head is not None
    queries = head.queries(seg_states)
    grounding_map = head(queries, keys, asked.region_image, valid)
    covered = model.coverage(encoded.tokens, asked.mask1, asked.region_image)
    valid = None if valid is None else valid.index_select(0, asked.region_image)
    key_rK = region_keys(keys, covered, asked.region_image)
    if ranks is not None:
        contrast = ranks.contrast(queries, key_rK, asked.phrases, head.scale, asked.stand_in)
    else:
        same = torch.tensor([[a == b for b in asked.phrases] for a in asked.phrases])
        (same,) = to_device([same], seg_states.device)
        contrast = phrase_contrast(queries, key_rK, same, head.scale)
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
