"""The images of a batch that a step learns from: the others are not encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop
from maskcap.models.transfer import to_device

_OF_REGIONS = ("caption", "phrase", "question", "references", "phrases", "region_ids")
_OF_IMAGES = ("keys", "sources", "sizes", "entries", "turns")


def used_images(batch: Batch, loops: Iterable[Loop], progress: float) -> list[int]:
    """The images, ascending, of which a loop learns at this share of the run: not those without words before the cycle
    starts, say."""
    return sorted({image for loop in loops for image in loop.images_of(batch, progress)})


def only_images(batch: Batch, images: Sequence[int]) -> Batch:
    """These images, ascending, with all of their regions. The batch itself where it is all of them, or none: nothing is
    encoded then. Nothing waits for the device."""
    if len(images) in (0, len(batch.keys)):
        return batch
    owners = batch.images_of(range(len(batch.region_ids)))
    here = {image: number for number, image in enumerate(images)}
    kept = [region for region, image in enumerate(owners) if image in here]
    places = [here[owners[region]] for region in kept]
    of_regions, of_images, region_image = to_device(
        [torch.tensor(each, dtype=torch.int64) for each in (kept, list(images), places)], batch.device
    )

    lists: dict[str, Any] = {name: [getattr(batch, name)[region] for region in kept] for name in _OF_REGIONS}
    lists |= {name: [values[image] for image in images] for name in _OF_IMAGES if (values := getattr(batch, name))}
    return replace(
        batch,
        image1=batch.image1.index_select(0, of_images),
        mask1=batch.mask1.index_select(0, of_regions),
        region_image=region_image,
        image2=_rows(batch.image2, of_images),
        mask2=_rows(batch.mask2, of_regions),
        host_region_image=tuple(places),
        padding=_kept(batch.padding, images),
        empty=_kept(batch.empty, kept),
        blank=_kept(batch.blank, images),
        **_only_frames(batch, here, kept),
        **lists,
    )


def _only_frames(batch: Batch, images: Mapping[int, int], regions: Sequence[int]) -> dict[str, Any]:
    """The fields of the frames of these images (their number → the new one) and of these regions' masks in them."""
    if batch.frames is None or batch.frame_masks is None:
        return {}
    frames = [frame for frame, owner in enumerate(batch.frame_owner) if owner in images]
    new_frame = {frame: number for number, frame in enumerate(frames)}
    new_region = {region: number for number, region in enumerate(regions)}
    places = list(zip(batch.frame_mask_region, batch.frame_mask_frame, strict=True))
    masks = [mask for mask, (region, frame) in enumerate(places) if region in new_region and frame in new_frame]
    of_frames, of_masks = to_device([torch.tensor(each, dtype=torch.int64) for each in (frames, masks)], batch.device)
    return {
        "frames": batch.frames.index_select(0, of_frames) if frames else None,
        "frame_owner": tuple(images[batch.frame_owner[frame]] for frame in frames),
        "frame_masks": batch.frame_masks.index_select(0, of_masks) if frames else None,
        "frame_mask_region": tuple(new_region[places[mask][0]] for mask in masks),
        "frame_mask_frame": tuple(new_frame[places[mask][1]] for mask in masks),
    }


def _rows(tensor: torch.Tensor | None, indices: torch.Tensor) -> torch.Tensor | None:
    return None if tensor is None else tensor.index_select(0, indices)


def _kept(flags: tuple[bool, ...], numbers: Iterable[int]) -> tuple[bool, ...]:
    """Those of the flags, if there are any."""
    return tuple(flags[number] for number in numbers) if flags else ()


def only_regions(batch: Batch, regions: Sequence[int]) -> Batch:
    """These regions, ascending and one at least, with all images. Nothing waits for the device."""
    kept, owners = list(regions), batch.images_of(regions)
    (rows,) = to_device([torch.tensor(kept)], batch.device)
    lists: dict[str, Any] = {name: [getattr(batch, name)[region] for region in kept] for name in _OF_REGIONS}
    return replace(
        batch,
        mask1=batch.mask1.index_select(0, rows),
        region_image=batch.region_image.index_select(0, rows),
        mask2=_rows(batch.mask2, rows),
        host_region_image=tuple(owners),
        empty=_kept(batch.empty, kept),
        **_only_frames(batch, {image: image for image in range(len(batch.keys))}, kept),
        **lists,
    )


def halves(batch: Batch) -> list[Batch]:
    """Its images in two halves, or one image's regions; nothing for a region, or a conversation, alone."""
    images, regions = len(batch.keys), len(batch.region_ids)
    if images > 1:
        return [only_images(batch, range(images // 2)), only_images(batch, range(images // 2, images))]
    if regions > 1 and not any(batch.turns):
        return [only_regions(batch, range(regions // 2)), only_regions(batch, range(regions // 2, regions))]
    return []


def with_stand_in(batch: Batch) -> Batch:
    """A batch without regions, with one that has no words: what a rank runs the model on where every rank must, and
    counts nothing."""
    return replace(
        batch,
        mask1=torch.ones_like(batch.image1[:1, 0]),
        region_image=torch.zeros(1, dtype=torch.int64, device=batch.device),
        mask2=None if batch.mask2 is None else torch.ones_like(batch.image1[:1, 0]),
        host_region_image=(0,),
        empty=(True,),  # so that no loop takes it for one to learn from
        caption=[None],
        phrase=[None],
        question=[None],
        references=[()],
        phrases=[()],
        region_ids=["stand-in"],
    )
