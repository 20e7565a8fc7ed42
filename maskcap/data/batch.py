"""Batch: what the Lightning module receives, and its normalisation on the device.

Shapes: B samples with an image each, R regions of all of them together, F further frames of all videos together, M
masks in these, S image size.

Workers hand over uint8, and `normalise` makes floats once the batch is on the device: a quarter of the bytes cross
process and bus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch

from maskcap.data.bad_samples import BadSample
from maskcap.data.record import Turn
from maskcap.errors import DataError

# ImageNet's statistics on 0..1 RGB; InternVL and SAM2 were both trained with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Batch:
    """What the Lightning module receives; also read as a mapping, `batch["mask1"]`.

    image1:       float32 (B, 3, S, S), ImageNet-normalised; uint8 0..255 before `normalise`.
    mask1:        float32 in [0, 1], (R, S, S); uint8 0/1 before `normalise`.
    region_image: int64 (R,), the image that each region is of, ascending.
    caption, phrase, question: R strings or None (see Sample).
    references:   R tuples of captions, `()` for a region without; phrases: R tuples of phrases, likewise.
    region_ids:   R region ids. keys, sources, sizes: B record keys, source names, original (height, width).
    image2, mask2: as image1 and mask1 for the other frame; None unless every sample is a pair.
    frames:       of videos, what stands behind image1: (F, 3, S, S), as image1; None where there is no video.
    frame_owner:  F numbers: the sample that each frame is of, ascending.
    frame_masks:  (M, S, S), as mask1: each region's masks in its sample's frames, region by region; None as `frames`.
    frame_mask_region, frame_mask_frame: M numbers: the region and the frame (of F) that each of them is of.
    turns:        B conversations; regions are counted within their sample, from 0.
    empty:        R flags: there is no pixel of the region in image1, and that is right.
    blank:        B flags: there is no image; image1 holds zeros.
    host_region_image: `region_image` as host numbers, kept by `collate`.
    tiny_regions: how many masks are smaller than a pixel of S × S and were kept as one (see Sample).
    padding:      B flags, or () for none: images that only fill a place (so that the ranks' batches are equally many,
                  or for a bad sample in evaluation); they have a place of their own too, and whoever scores or learns
                  passes them over. In training a batch is padding as a whole or not at all.
    bad:          samples that were passed over to make this batch (`on_bad_sample=skip`).
    """

    image1: torch.Tensor
    mask1: torch.Tensor
    region_image: torch.Tensor
    caption: list[str | None]
    phrase: list[str | None]
    question: list[str | None]
    references: list[tuple[str, ...]]
    phrases: list[tuple[str, ...]]
    region_ids: list[str]
    keys: list[str]
    sources: list[str]
    sizes: list[tuple[int, int]]
    image2: torch.Tensor | None = None
    mask2: torch.Tensor | None = None
    host_region_image: tuple[int, ...] | None = None
    tiny_regions: int = 0
    padding: tuple[bool, ...] = ()
    bad: tuple[BadSample, ...] = ()
    frames: torch.Tensor | None = None
    frame_owner: tuple[int, ...] = ()
    frame_masks: torch.Tensor | None = None
    frame_mask_region: tuple[int, ...] = ()
    frame_mask_frame: tuple[int, ...] = ()
    turns: list[tuple[Turn, ...]] = field(default_factory=list)
    empty: tuple[bool, ...] = ()
    blank: tuple[bool, ...] = ()
    entries: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.image1.device

    @cached_property
    def images(self) -> torch.Tensor:
        """(B + F, 3, S, S): image1 and the frames behind it. Without videos image1 itself."""
        return self.image1 if self.frames is None else torch.cat([self.image1, self.frames])

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """The original (height, width) of each of `images`."""
        return [*self.sizes, *(self.sizes[owner] for owner in self.frame_owner)]

    @property
    def groups(self) -> list[tuple[int, ...]] | None:
        """For each sample the numbers of its images in `images`, in the order of time; None: each has one."""
        if self.frames is None:
            return None
        shown: list[list[int]] = [[image] for image in range(len(self.keys))]
        for frame, owner in enumerate(self.frame_owner, len(self.keys)):
            shown[owner].append(frame)
        return [tuple(images) for images in shown]

    @cached_property
    def masks(self) -> torch.Tensor:
        """(R + M, S, S): mask1 and the masks in frames. Without videos mask1 itself."""
        return self.mask1 if self.frame_masks is None else torch.cat([self.mask1, self.frame_masks])

    @property
    def mask_regions(self) -> list[int]:
        """The region that each of `masks` is of."""
        return [*range(len(self.region_ids)), *self.frame_mask_region]

    @property
    def mask_images(self) -> list[int]:
        """The number in `images` of the image that each of `masks` is of."""
        first = len(self.keys)
        return [*self.images_of(range(len(self.region_ids))), *(first + frame for frame in self.frame_mask_frame)]

    def masks_of(self, regions: Sequence[int]) -> list[tuple[int, int]]:
        """(place in `regions`, number in `masks`) of each mask of these regions, in their order and that of time."""
        later: dict[int, list[int]] = {}
        for number, region in enumerate(self.frame_mask_region, len(self.region_ids)):
            later.setdefault(region, []).append(number)
        return [(row, mask) for row, region in enumerate(regions) for mask in (region, *later.get(region, ()))]

    def entries_of(self, regions: Sequence[int]) -> list[str]:
        """The mixture's entry that each of these regions is from."""
        return [self.entries[image] for image in self.images_of(regions)]

    def images_with(self, regions: Sequence[int]) -> list[int]:
        """The numbers in `images` of those that these regions have masks of, each once."""
        places = self.mask_images
        return sorted({places[mask] for _, mask in self.masks_of(regions)})

    def regions_in(self, image: int) -> list[int]:
        """The regions of a sample, in its own order."""
        owners = self.images_of(range(len(self.region_ids)))
        return [region for region, owner in enumerate(owners) if owner == image]

    def region_of(self, image: int, number: int) -> int:
        """The region that is number `number` of a sample's own."""
        return self.regions_in(image)[number]

    def is_empty(self, region: int) -> bool:
        """Whether image1 rightly holds no pixel of the region."""
        return bool(self.empty) and self.empty[region]

    def is_blank(self, image: int) -> bool:
        """Whether the sample has no image."""
        return bool(self.blank) and self.blank[image]

    def images_of(self, regions: Sequence[int]) -> list[int]:
        """The image of each of these regions as host numbers: reading `region_image` would wait for the device."""
        host = self.host_region_image if self.host_region_image is not None else self.region_image.tolist()
        return [host[region] for region in regions]

    def names_of(self, regions: Sequence[int]) -> list[str]:
        """`"<record key> region <id>"` of each of these regions, for error messages."""
        images = self.images_of(regions)
        return [f"{self.keys[i]} region {self.region_ids[r]}" for r, i in zip(regions, images, strict=True)]

    def is_padding(self, image: int) -> bool:
        """Whether this image is there for its number alone."""
        return bool(self.padding) and self.padding[image]

    @property
    def all_padding(self) -> bool:
        """Whether nothing in the batch counts."""
        return bool(self.padding) and all(self.padding)

    def __getitem__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise KeyError(f"a Batch has no field {name!r}; it has {', '.join(_FIELDS)}")
        return getattr(self, name)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`; texts are shared."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; torch's DataLoader calls it when `pin_memory` is on."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


_FIELDS = tuple(field.name for field in fields(Batch))
_TENSORS = ("image1", "mask1", "region_image", "image2", "mask2", "frames", "frame_masks")


def normalise(batch: Batch) -> Batch:
    """uint8 batch → float32: images to ImageNet's `(x / 255 - mean) / std`, masks to 0.0/1.0; on the batch's device.

    Raises DataError for a batch that is not uint8: it was normalised already.
    """
    if batch.image1.dtype != torch.uint8:
        raise DataError(f"normalise needs uint8 images, got {batch.image1.dtype}: was the batch normalised already?")
    return replace(
        batch,
        image1=_normalise_image(batch.image1),
        mask1=batch.mask1.float(),
        image2=None if batch.image2 is None else _normalise_image(batch.image2),
        mask2=None if batch.mask2 is None else batch.mask2.float(),
        frames=None if batch.frames is None else _normalise_image(batch.frames),
        frame_masks=None if batch.frame_masks is None else batch.frame_masks.float(),
    )


def denormalise(image: torch.Tensor) -> torch.Tensor:
    """(…, 3, H, W) ImageNet-normalised → float32 0..1 for pictures; values that leave 0..1 are clamped."""
    mean = torch.tensor(IMAGENET_MEAN, device=image.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=image.device).view(3, 1, 1)
    return (image.float() * std + mean).clamp_(0, 1)


def _normalise_image(image_B3SS: torch.Tensor) -> torch.Tensor:
    # In place after the one conversion (a batch of 1024 px floats is large), and with Python numbers: a mean and std
    # made as tensors would be copied to the device each step, and the copy waits for it.
    pixels = image_B3SS.float()
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        pixels[:, channel].mul_(1 / (255 * std)).sub_(mean / std)
    return pixels
