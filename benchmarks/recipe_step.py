"""Losses and gradients of one step in three ways that differ only in what they share.

recipe: the published recipes. Every region is two samples, one for each direction; each sample's image goes through
    the vision tower anew, a sample to segment through SAM2's encoder too, and each sample is a sequence of its own.
none: each image is encoded once, and each sample is still a sequence of its own (`packing: none`).
tree: each image is encoded once and read once, in one sequence with all its samples (`packing: tree`).

Shapes: B images, N rows, L their length, T image tokens, C the language model's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, StepContext, run_loops
from maskcap.models.conversation import IMAGE_SLOT
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.packing import Packing
from maskcap.models.pieces import prefix_ids
from maskcap.models.reading import Reading
from maskcap.models.work import Work


@dataclass
class StepResult:
    """Each loop's loss, detached and without its weight, and what was computed for all of them."""

    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    work: Work = field(default_factory=Work)


def step_shared(
    model: MaskCaptionModel, loops: Mapping[str, Loop], batch: Batch, packing: Packing, mixed: bool = False
) -> StepResult:
    """Forward and backward as in training: all loops on the same encodings, read in one go.

    mixed: the forward under bfloat16 autocast.
    """
    model.packing = packing
    with torch.autocast(batch.image1.device.type, torch.bfloat16, enabled=mixed):
        context = StepContext(model.encode(batch.image1))
        outputs = run_loops(model, loops, batch, context)
        total = torch.stack([loops[name].weight * output.loss for name, output in outputs.items()]).sum()
    total.backward()
    return StepResult({name: output.loss.detach() for name, output in outputs.items()}, context.encoded.work)


def step_recipe(
    model: MaskCaptionModel, loops: Mapping[str, Loop], batch: Batch, at_once: int | None = None, mixed: bool = False
) -> StepResult:
    """Forward and backward of each loop alone, on a copy of its image for each region; gradients are added up.

    at_once: samples of a forward and backward, None for all of a loop's. A part counts by its share of the regions:
    with several the mean over the answers' tokens becomes a mean of the parts' means, and the grounding map's contrast
    is over a part's regions; with one the losses are those of `step_shared`. Every region needs words for every loop.
    """
    model.packing = "none"
    result = StepResult()
    count = len(batch.region_ids)
    at_once = at_once or count
    for name, loop in loops.items():
        for first in range(0, count, at_once):
            part = copies(batch, range(first, min(first + at_once, count)))
            with torch.autocast(batch.image1.device.type, torch.bfloat16, enabled=mixed):
                encoded = model.encode(part.image1)
                loss = _loss_alone(model, loop, part, encoded) * (len(part.region_ids) / count)
            (loop.weight * loss).backward()
            result.losses[name] = result.losses.get(name, torch.zeros_like(loss)) + loss.detach()
            result.work = _sum(result.work, encoded.work)
    return result


def copies(batch: Batch, regions: range) -> Batch:
    """These regions, each with a copy of its image as an image of its own. Nothing waits for the device."""
    images = batch.images_of(regions)
    first, last = regions.start, regions.stop
    of_regions = ("caption", "phrase", "question", "references", "phrases", "region_ids")
    return replace(
        batch,
        image1=torch.stack([batch.image1[image] for image in images]),
        mask1=batch.mask1[first:last],
        region_image=torch.arange(len(regions), device=batch.image1.device),
        host_region_image=tuple(range(len(regions))),
        **{name: getattr(batch, name)[first:last] for name in of_regions},
        **{name: [getattr(batch, name)[image] for image in images] for name in ("keys", "sources", "sizes")},
    )


def _loss_alone(model: MaskCaptionModel, loop: Loop, part: Batch, encoded: EncodedImages) -> torch.Tensor:
    ask = loop.ask(model, part, StepContext(encoded))
    assert ask.questions is not None, "a loop without words has nothing to pack"
    assert len(ask.questions.segments) == len(part.region_ids), "every region needs words"
    (reading,) = model.read(encoded, [ask.questions])
    # Each row holds its own image's tokens: the recipe would not read the prefix once more for the grounding map.
    encoded.image_states = _image_states(model, reading, encoded.tokens.features.shape[1])
    return ask.finish(reading).loss


def _image_states(model: MaskCaptionModel, reading: Reading, tokens: int) -> torch.Tensor:
    """The states (B, T, C) at the images' tokens, of rows that each begin with the prefix of an image of their own."""
    vlm = model.vlm
    ids = prefix_ids(vlm)  # type: ignore[arg-type]
    slot = vlm.tokenizer.convert_tokens_to_ids(IMAGE_SLOT)  # type: ignore[union-attr,operator]
    first = int((ids == slot).argmax())
    rows_NLC = reading.states.view(*reading.sequences.position_ids.shape, -1)
    return rows_NLC[:, first : first + tokens]


def _sum(one: Work, other: Work) -> Work:
    return Work(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(Work)))
