"""Samples → Batch. Shapes: S image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from maskcap.data.batch import Batch
from maskcap.data.sample import Sample
from maskcap.errors import DataError


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a Batch of uint8 images and masks, regions in the order of their images.

    Raises DataError when there is none, when pairs meet single images, or when image sizes differ.
    """
    if not samples:
        raise DataError("cannot collate an empty list of samples")
    _check_alike(samples)
    size = samples[0].image1.shape[-1]
    counts_B = torch.tensor([sample.mask1.shape[0] for sample in samples])
    return Batch(
        image1=_stacked([sample.image1 for sample in samples]),
        mask1=_stacked_masks([mask for sample in samples for mask in sample.mask1], size),
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
        mask2=None if samples[0].mask2 is None else _stacked_masks([m for s in samples for m in _given(s.mask2)], size),
        host_region_image=tuple(image for image, sample in enumerate(samples) for _ in sample.region_ids),
        tiny_regions=sum(sample.tiny_regions for sample in samples),
        turns=[sample.turns for sample in samples],
        empty=tuple(gone for sample in samples for gone in sample.empty),
        blank=tuple(sample.blank for sample in samples),
        entries=[sample.entry for sample in samples],
        **_videos(samples, size),
    )


def _videos(samples: Sequence[Sample], size: int) -> dict[str, Any]:
    """The fields of what stands behind image1; nothing where no sample is of a video."""
    if all(sample.frames is None for sample in samples):
        return {}
    frames: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    owners: list[int] = []
    places: list[tuple[int, int]] = []
    first_region = 0
    for image, sample in enumerate(samples):
        if sample.frames is not None and sample.frame_masks is not None:
            count = len(sample.frames)
            regions = range(first_region, first_region + len(sample.region_ids))
            places += [(region, len(frames) + frame) for region in regions for frame in range(count)]
            masks += [mask for of_region in sample.frame_masks for mask in of_region]
            frames += list(sample.frames)
            owners += [image] * count
        first_region += len(sample.region_ids)
    return {
        "frames": _stacked(frames),
        "frame_owner": tuple(owners),
        "frame_masks": _stacked_masks(masks, size),
        "frame_mask_region": tuple(region for region, _ in places),
        "frame_mask_frame": tuple(frame for _, frame in places),
    }


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


def _stacked_masks(masks: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """As `_stacked`, of no mask too."""
    return _stacked(masks) if masks else torch.zeros(0, size, size, dtype=torch.uint8)


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
