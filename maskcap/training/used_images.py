"""The images of a batch that a step learns from: the others are not encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop
from maskcap.models.transfer import to_device

_OF_REGIONS = ("caption", "phrase", "question", "references", "phrases", "region_ids")
_OF_IMAGES = ("keys", "sources", "sizes")


def used_images(batch: Batch, loops: Iterable[Loop], progress: float) -> list[int]:
    """The images, ascending, of which a loop learns at this share of the run: not those without words before the cycle
    starts, say."""
    regions = {region for loop in loops for region in loop.regions_of(batch, progress)}
    return sorted(set(batch.images_of(sorted(regions))))


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
        [torch.tensor(each) for each in (kept, list(images), places)], batch.image1.device
    )

    def rows(tensor: torch.Tensor | None, indices: torch.Tensor) -> torch.Tensor | None:
        """Those of a tensor, if there is one."""
        return None if tensor is None else tensor.index_select(0, indices)

    lists: dict[str, Any] = {name: [getattr(batch, name)[region] for region in kept] for name in _OF_REGIONS}
    lists |= {name: [getattr(batch, name)[image] for image in images] for name in _OF_IMAGES}
    return replace(
        batch,
        image1=batch.image1.index_select(0, of_images),
        mask1=batch.mask1.index_select(0, of_regions),
        region_image=region_image,
        image2=rows(batch.image2, of_images),
        mask2=rows(batch.mask2, of_regions),
        host_region_image=tuple(places),
        padding=tuple(batch.padding[image] for image in images) if batch.padding else (),
        **lists,
    )


def only_regions(batch: Batch, regions: Sequence[int]) -> Batch:
    """These regions, ascending and one at least, with all images. Nothing waits for the device."""
    kept, owners = list(regions), batch.images_of(regions)
    (rows,) = to_device([torch.tensor(kept)], batch.image1.device)
    lists: dict[str, Any] = {name: [getattr(batch, name)[region] for region in kept] for name in _OF_REGIONS}
    return replace(
        batch,
        mask1=batch.mask1.index_select(0, rows),
        region_image=batch.region_image.index_select(0, rows),
        mask2=None if batch.mask2 is None else batch.mask2.index_select(0, rows),
        host_region_image=tuple(owners),
        **lists,
    )


def halves(batch: Batch) -> list[Batch]:
    """Its images in two halves, or one image's regions; nothing for a region alone."""
    images, regions = len(batch.keys), len(batch.region_ids)
    if images > 1:
        return [only_images(batch, range(images // 2)), only_images(batch, range(images // 2, images))]
    if regions > 1:
        return [only_regions(batch, range(regions // 2)), only_regions(batch, range(regions // 2, regions))]
    return []
