"""The losses of masks, and of phrases read with their images.

Shapes: S [SEG]s, M masks that they are asked for, r of these that are told from each other, T image tokens, m low-res
mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from maskcap.loops.asked_regions import AskedRegions
from maskcap.loops.base import StepContext
from maskcap.loops.by_entry import ByEntry, answer_part, masks_by_entry
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
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.loops.global_batch import GlobalBatch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segmenter import Segmenter


MASK_LOSSES: dict[str, Over] = {"mask_ce": "regions", "mask_dice": "regions"}  # what each is a mean over
PHRASE_LOSSES: dict[str, Over] = {"answer": "answers", "grounding": "regions", "contrast": "contrasted", **MASK_LOSSES}


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
) -> tuple[dict[str, tuple[float, torch.Tensor]], ByEntry]:
    """Each loss of phrases (one a segment) read with their images (`encoded`), with its weight, by name; and what they
    are for each entry."""
    parts: dict[str, tuple[float, torch.Tensor]] = {}
    text: ByEntry = {}
    if settings.answer_weight:
        loss, text = answer_part(model, encoded, reading, settings.answer_weight, asked.entries)
        parts["answer"] = settings.answer_weight, loss
    of_masks, by_entry = seg_losses(settings, model, asked, reading.seg_states, encoded, context)
    return parts | of_masks, text | by_entry


def seg_losses(
    settings: PhraseLossSettings,
    model: MaskCaptionModel,
    asked: AskedRegions,
    seg_states: torch.Tensor,
    encoded: EncodedImages,
    context: StepContext,
) -> tuple[dict[str, tuple[float, torch.Tensor]], ByEntry]:
    """As `phrase_losses`, without that of the answers' words. seg_states (S, C)."""
    parts: dict[str, tuple[float, torch.Tensor]] = {}
    by_entry: ByEntry = {}
    grounding_map = None
    if model.grounding is not None:
        grounding_map, losses = _ground(settings, model, asked, seg_states, encoded, context.ranks)
        parts |= losses
    if context.use_segmenter:
        logits = model.mask_logits(encoded, asked.of_masks(seg_states), asked.region_image, grounding_map)
        entries = [asked.entries[seg] for seg in asked.segs] if asked.entries else ()
        losses, by_entry = mask_losses(settings, model.segmenter, logits, asked.masks, context.noise, entries)
        parts |= losses
    return parts, by_entry


def _ground(
    settings: PhraseLossSettings,
    model: MaskCaptionModel,
    asked: AskedRegions,
    seg_states: torch.Tensor,
    encoded: EncodedImages,
    ranks: GlobalBatch | None,
) -> tuple[torch.Tensor, dict[str, tuple[float, torch.Tensor]]]:
    """The grounding map (M, T) and its losses."""
    head, keys, valid = model.grounding, encoded.keys, encoded.tokens.valid
    assert head is not None
    queries = asked.of_masks(head.queries(seg_states))
    grounding_map = head(queries, keys, asked.region_image, valid)
    covered = model.coverage(encoded.tokens, asked.masks, asked.region_image)
    valid = None if valid is None else valid.index_select(0, asked.region_image)
    losses = {"grounding": (settings.grounding_weight, grounding_loss(grounding_map, covered, valid))}
    rows = asked.contrasted
    if rows or ranks is not None:  # every rank joins the exchange here, before it runs further sharded layers
        region_image = take(asked.region_image, rows)
        key_rK = region_keys(keys, take(covered, rows), region_image)
        phrases = [asked.phrases[asked.segs[row]] for row in rows]
        contrast = _contrast(take(queries, rows), key_rK, phrases, head.scale, ranks, asked.stand_in or not rows)
        losses["contrast"] = settings.contrast_weight, contrast
    return grounding_map, losses


def _contrast(
    queries: torch.Tensor,
    keys: torch.Tensor,
    phrases: list[str],
    scale: torch.Tensor,
    ranks: GlobalBatch | None,
    stand_in: bool,
) -> torch.Tensor:
    """Each phrase (r, K) told from the regions (r, K) of the batch, of all ranks."""
    if ranks is not None:
        return ranks.contrast(queries, keys, phrases, scale, stand_in)
    same = torch.tensor([[a == b for b in phrases] for a in phrases])
    (same,) = to_device([same], queries.device)
    return phrase_contrast(queries, keys, same, scale)


def mask_losses(
    settings: MaskLossSettings,
    segmenter: Segmenter,
    logits: torch.Tensor,
    masks: torch.Tensor,
    generator: torch.Generator,
    entries: Sequence[str] = (),
) -> tuple[dict[str, tuple[float, torch.Tensor]], ByEntry]:
    """Sigmoid CE and dice of low-res logits (M, m, m) against masks (M, H, W), each with its weight; their sums for the
    masks of each entry, where `entries` says which each is of.

    Dense: the masks are resized to the logits as the segmenter says. Sampled: both are read at uncertain points.
    """
    if settings.sampled_points is None:
        targets = resize_targets(masks, (logits.shape[-2], logits.shape[-1]), segmenter.target_resize)
    else:
        logits, targets = sample_uncertain(logits, masks, settings.sampled_points, generator)
        logits, targets = logits[:, None], targets[:, None]
    by_entry = masks_by_entry(logits.detach(), targets, entries, settings.ce_weight, settings.dice_weight)
    return {
        "mask_ce": (settings.ce_weight, sigmoid_ce_loss(logits, targets)),
        "mask_dice": (settings.dice_weight, dice_loss(logits, targets)),
    }, by_entry
