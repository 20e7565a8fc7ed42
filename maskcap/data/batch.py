"""Samples → Batch, and normalisation on the device. Shapes: B images, R regions of all images together, S image size.

Workers hand over uint8, and `normalise` makes floats once the batch is on the device: a quarter of the bytes cross
process and bus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.utils.data import default_collate

from maskcap.data.bad_samples import BadSample
from maskcap.data.sample import Sample
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
_TENSORS = ("image1", "mask1", "region_image", "image2", "mask2")


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a Batch of uint8 images and masks, regions in the order of their images.

    Raises DataError when there is none, when pairs meet single images, or when image sizes differ.
    """
    if not samples:
        raise DataError("cannot collate an empty list of samples")
    _check_alike(samples)
    counts_B = torch.tensor([sample.mask1.shape[0] for sample in samples])
    return Batch(
        image1=_stacked([sample.image1 for sample in samples]),
        mask1=_stacked([mask for sample in samples for mask in sample.mask1]),
        region_image=torch.repeat_interleave(torch.arange(len(samples)), counts_B),
        caption=_flatten(samples, "caption", None),
        phrase=_flatten(samples, "phrase", None),
        question=_flatten(samples, "question", None),
        references=_flatten(samples, "references", ()),
        phrases=_flatten(samples, "phrases", ()),
        region_ids=[region_id for sample in samples for region_id in sample.region_ids],
        keys=[sample.key for sample in samples],
        sources=[sample.source for sample in samples],
        sizes=[sample.size for sample in samples],
        image2=None if samples[0].image2 is None else _stacked([_given(sample.image2) for sample in samples]),
        mask2=None if samples[0].mask2 is None else _stacked([m for sample in samples for m in _given(sample.mask2)]),
        host_region_image=tuple(image for image, sample in enumerate(samples) for _ in sample.region_ids),
        tiny_regions=sum(sample.tiny_regions for sample in samples),
    )


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


def _flatten(samples: Sequence[Sample], name: str, missing: Any) -> list[Any]:
    """One entry for each region; `missing` for every region of a sample without texts."""
    flat: list[Any] = []
    for sample in samples:
        values = sample[name]
        flat += [missing] * sample.mask1.shape[0] if values is None else values
    return flat


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """As torch.stack; in a data-loader worker straight into the memory that the main process shares, a copy less."""
    return default_collate(list(tensors))


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None  # pairs meet pairs only: see _check_alike
    return tensor


def _check_alike(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples[1:]:
        if (sample.image2 is None) != (first.image2 is None):
            pair, single = (first, sample) if first.image2 is not None else (sample, first)
            raise DataError(
                f"{pair.key} is a pair of frames and {single.key} a single image: one batch holds only one kind; "
                "mix sources of the same kind: read the video source with pairs=False, or make the single images "
                "pairs of themselves with maskcap.data.rewritten.still_pairs"
            )
        if sample.image1.shape != first.image1.shape:
            raise DataError(
                f"{first.key} is {tuple(first.image1.shape)} and {sample.key} is {tuple(sample.image1.shape)}: "
                "make the samples of a batch with one image_size"
            )
