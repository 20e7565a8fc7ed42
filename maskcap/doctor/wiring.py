"""Are the special tokens there, does [SEG] reach the masks, a region its caption, and is packing exact?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maskcap.data.turns import grounded_regions, named_regions
from maskcap.doctor.findings import Finding, NotReachedError, Patient, evaluating
from maskcap.loops.base import Loop, LoopOutput, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.dialogue import Dialogue
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.conversation import SEG, token_ids

if TYPE_CHECKING:
    from maskcap.data.batch import Batch

_EXACT = {"32-true": 1e-4}  # relative, of losses by two ways of packing; other precisions round
_ROUNDED = 3e-2


def check_tokens(patient: Patient) -> Finding:
    """Every special token is one id with a row of its own in the embeddings, and the rows of new words train."""
    model = patient.need("module").model
    vlm, loops = model.vlm, patient.need("module").active_loops
    if not any(loop.needs for loop in loops.values()):
        return Finding(None, "no loop reads words")
    wanted = (vlm.conversation.image_slot, *vlm.conversation.added_tokens, vlm.conversation.end)
    ids = {token: token_ids(vlm.tokenizer, token) for token in wanted}
    rows = vlm.embedding_weight.shape[0]
    facts = {"ids": ids, "rows": rows}
    torn = [token for token, found in ids.items() if len(found) != 1]
    if torn:
        fix = "the tokenizer must have them as special tokens: is its folder whole (tokenizer.json)?"
        return Finding(False, f"cut to pieces: {', '.join(torn)}", fix, facts)
    flat = {token: found[0] for token, found in ids.items()}
    beyond = [token for token, found in flat.items() if found >= rows]
    if beyond or len(set(flat.values())) < len(flat):
        what = f"without a row: {', '.join(beyond)}" if beyond else "two tokens share an id"
        return Finding(False, f"{what} ({rows} rows)", "tokenizer and weights are not of one model", facts)
    said = ", ".join(f"{token} {found}" for token, found in flat.items())
    if not vlm.embedding_weight.requires_grad:
        fix = "new words must be learned: take the embeddings out of model.freeze_patterns"
        return Finding(False, f"{said}; the embeddings' rows are frozen", fix, facts)
    return Finding(True, f"{said}; their rows train", facts=facts)


def check_seg(patient: Patient) -> Finding:
    """The gradient of the mask loss alone reaches what caption → mask needs, and nothing that is frozen: by a phrase,
    or where the batch has none by those of a grounded answer."""
    module, batch = patient.need("module"), patient.need("batch")
    model, active = module.model, module.active_loops.values()
    if not any(isinstance(loop, CaptionToMask | Dialogue) for loop in active):
        return Finding(None, "no loop caption_to_mask or dialogue with a weight")
    bare = next((bare for loop in active if (bare := _masks_alone(loop, batch)) is not None), None)
    if bare is None:
        raise NotReachedError("the batch has no phrase")
    reached = _gradients(patient, {"mask": bare})
    seg = token_ids(model.vlm.tokenizer, SEG)[0]
    row = model.vlm.embedding_weight.grad
    parts = {
        f"{SEG}'s embedding": row is not None and bool(row[seg].abs().sum() > 0),
        "the language model": _any(model.vlm.language_model, reached),
        "seg_mlp": _any(model.seg_mlp, reached),
        "SAM2's mask decoder": _any(model.segmenter.model.mask_decoder, reached),
    }
    if model.grounding is not None:
        parts["the grounding map"] = _any(model.grounding, reached)
    module.zero_grad(set_to_none=True)
    frozen = sum(not weight.requires_grad for weight in module.parameters())
    facts = {"reached": parts, "tensors_reached": len(reached), "frozen_tensors": frozen}
    missing = [name for name, got in parts.items() if not got]
    if missing:
        fix = "look at model.freeze_patterns, model.lora, segmenter.freeze_patterns: the masks cannot learn from words"
        return Finding(False, f"the mask loss does not reach {', '.join(missing)}", fix, facts)
    return Finding(True, f"the mask loss reaches {', '.join(parts)}; {frozen} tensors are frozen", facts=facts)


def check_regions(patient: Patient) -> Finding:
    """The captions' loss, or that of answers about regions, changes with the masks: the regions' tokens are read."""
    batch = patient.need("batch")
    needs = {loop.needs for loop in patient.need("module").active_loops.values()}
    if not needs & {"captions", "turns"}:
        return Finding(None, "no loop learns captions or answers")
    probe: Loop
    if "captions" in needs and any(batch.caption):
        probe = MaskToCaption()
    elif "turns" in needs and any(map(named_regions, batch.turns)):
        probe = Dialogue(ce_weight=0.0, dice_weight=0.0, grounding_weight=0.0, contrast_weight=0.0)
    else:
        raise NotReachedError("the batch has no caption, and no question about a region")
    side = batch.mask1.shape[-1]
    moved = replace(batch, mask1=batch.mask1.roll((side // 2, side // 2), dims=(-2, -1)))
    with evaluating(patient.need("module")):
        own, again, other = (
            float(_outputs(patient, {"caption": probe}, each)["caption"].loss) for each in (batch, batch, moved)
        )
    facts = {"loss": own, "again": again, "mask_moved": other}
    said = f"caption loss {own:.4f}, with the masks moved {other:.4f}"
    if abs(own - other) <= max(10 * abs(own - again), 1e-6 * abs(own)):
        fix = "the captions do not see the masks: is the model's region prompt (<vp> … </vp>) replaced?"
        return Finding(False, said, fix, facts)
    return Finding(True, said, facts=facts)


def check_packing(patient: Patient) -> Finding:
    """Losses of one sequence for all regions of an image equal those of a sequence each."""
    module, batch = patient.need("module"), patient.need("batch")
    loops = {name: loop for name, loop in module.active_loops.items() if loop.needs is not None}
    if module.model.packing == "none" or not loops:
        return Finding(None, "mask_caption.packing=none" if loops else "no loop reads words")
    with evaluating(module):
        packed = _outputs(patient, loops, batch)
        module.model.packing = "none"
        try:
            alone = _outputs(patient, loops, batch)
        finally:
            module.model.packing = "tree"
    apart = {
        name: abs(float(packed[name].loss) - float(alone[name].loss)) / max(abs(float(alone[name].loss)), 1e-6)
        for name in loops
    }
    limit = _EXACT.get(str(patient.need("trainer").precision), _ROUNDED)
    said = "tree and none differ by " + ", ".join(f"{value:.1e} ({name})" for name, value in apart.items())
    facts = {"relative_difference": apart, "limit": limit}
    if max(apart.values()) > limit:
        fix = "mask_caption.packing=none until it is known why; another mask_caption.attention may help"
        return Finding(False, said, fix, facts)
    return Finding(True, said, facts=facts)


def _masks_alone(loop: Loop, batch: Batch) -> Loop | None:
    """The mask loss of a loop, without its others; None for a loop that has none in this batch."""
    if isinstance(loop, CaptionToMask) and any(batch.phrase):
        return CaptionToMask(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, loop.sampled_points)
    if isinstance(loop, Dialogue) and any(map(grounded_regions, batch.turns)):
        return Dialogue(
            answer_weight=0.0,
            ce_weight=1.0,
            dice_weight=1.0,
            grounding_weight=0.0,
            contrast_weight=0.0,
            sampled_points=loop.sampled_points,
        )
    return None


def _outputs(patient: Patient, loops: Mapping[str, Any], batch: Any) -> dict[str, LoopOutput]:
    with patient.precision():
        return run_loops(patient.need("module").model, loops, batch, patient.context(batch))


def _gradients(patient: Patient, loops: Mapping[str, Any]) -> set[int]:
    """Ids of the parameters that the loops' loss gives a gradient that is not 0; gradients are left in place."""
    module = patient.need("module")
    module.zero_grad(set_to_none=True)
    losses = [output.loss for output in _outputs(patient, loops, patient.need("batch")).values()]
    torch.stack(losses).sum().backward()
    return {
        id(weight) for weight in module.parameters() if weight.grad is not None and bool(weight.grad.abs().sum() > 0)
    }


def _any(part: nn.Module, reached: Iterable[int]) -> bool:
    found = set(reached)
    return any(id(weight) in found for weight in part.parameters())
