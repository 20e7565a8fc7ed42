"""Record → Sample: one training example, made in a data-loader worker. Shapes: K regions, S image size; uint8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from maskcap.data.images import read_image, resize_to_planes
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.record_rules import bad_texts, empty_mask, missing_parts, raise_first, uneven_pair
from maskcap.data.rle import decode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.errors import ConfigError

Choice = Literal["first", "random"]


@dataclass(frozen=True)
class Sample:
    """One image (or pair of frames) and K of its regions; also read as a mapping, `sample["mask1"]`.

    image1:     uint8 (3, S, S) RGB, the whole image resized directly, aspect ratio not kept.
    mask1:      uint8 0/1 (K, S, S), nearest.
    caption:    for each region one of its captions, or None for a region without; None if the record has none at all.
    phrase:     as `caption`, drawn apart from it, and None for a region whose captions do not single it out.
    question:   what `caption` answers (None: the default question).
    references: for each region every caption that answers the same question as `caption` (just that one when
                captions are taken "first"); `()` for a region without captions.
    phrases:    for each region every phrase that it may be segmented by (just the first when phrases are taken
                "first"), `()` for a region that has none; evaluation scores them all.
    region_ids: the K region ids, in the record's order.
    size:       height and width of the original image1, pixels.
    image2, mask2: the same regions in the other frame; pairs only. Of a still paired with itself: image1 and mask1.
    source:     first part of `key`.
    tiny_regions: how many of the masks fell between the S × S pixels and were kept as one pixel (see `shrink_mask`).
    """

    image1: torch.Tensor
    mask1: torch.Tensor
    caption: list[str | None] | None
    phrase: list[str | None] | None
    question: list[str | None] | None
    references: list[tuple[str, ...]] | None
    phrases: list[tuple[str, ...]] | None
    region_ids: list[str]
    key: str
    size: tuple[int, int]
    source: str
    image2: torch.Tensor | None = None
    mask2: torch.Tensor | None = None
    tiny_regions: int = 0

    def __getitem__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise KeyError(f"a Sample has no field {name!r}; it has {', '.join(_FIELDS)}")
        return getattr(self, name)


_FIELDS = tuple(field.name for field in fields(Sample))


def make_sample(
    record: Record,
    rng: np.random.Generator,
    *,
    image_size: int = 1024,
    regions_per_image: int | None = 1,
    caption_choice: Choice = "random",
    phrase_choice: Choice = "random",
) -> Sample:
    """Read a record's pixels, draw K = min(regions_per_image, all) regions without replacement and decode those only.

    `rng` decides everything that is drawn: the same record and generator state give the same sample.
    `regions_per_image=None` takes every region. Drawn regions keep the record's order.

    Raises ConfigError for impossible options, DataError for a record without regions, with an empty caption, an empty
    mask or regions that do not pair up; ImageDecodeError and MaskDecodeError come from the readers, and name the key.
    """
    check_options(image_size, regions_per_image, caption_choice, phrase_choice)
    raise_first(missing_parts(record))
    raise_first(uneven_pair(record))
    drawn = _draw_regions(len(record.regions1), regions_per_image, rng)
    regions = [record.regions1[i] for i in drawn]
    texts = [_draw_texts(record.key, region, rng, caption_choice, phrase_choice) for region in regions]
    has_text = any(region.captions for region in record.regions1)

    mask1, tiny_regions = _mask_tensor(record.image1, regions, record.key, image_size)
    image1 = _image_tensor(record.image1, record.key, image_size)
    image2 = mask2 = None
    if record.image2 == record.image1 and record.regions2 is record.regions1:  # a still as a pair: nothing to read
        image2, mask2 = image1, mask1
    elif record.image2 is not None and record.regions2 is not None:
        image2 = _image_tensor(record.image2, record.key, image_size)
        mask2, more = _mask_tensor(record.image2, [record.regions2[i] for i in drawn], record.key, image_size)
        tiny_regions += more
    return Sample(
        image1=image1,
        mask1=mask1,
        caption=[text.caption for text in texts] if has_text else None,
        phrase=[text.phrase for text in texts] if has_text else None,
        question=[text.question for text in texts] if has_text else None,
        references=[text.references for text in texts] if has_text else None,
        phrases=[text.phrases for text in texts] if has_text else None,
        region_ids=[region.id for region in regions],
        key=record.key,
        size=(record.image1.height, record.image1.width),
        source=record.key.split("/", 1)[0],
        image2=image2,
        mask2=mask2,
        tiny_regions=tiny_regions,
    )


@dataclass(frozen=True)
class _Texts:
    caption: str | None = None
    phrase: str | None = None
    question: str | None = None
    references: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


def _draw_texts(
    key: str, region: Region, rng: np.random.Generator, caption_choice: Choice, phrase_choice: Choice
) -> _Texts:
    """What is said of one region in this sample; caption and phrase are drawn independently."""
    captions = region.captions
    if not captions:
        return _Texts()
    raise_first(bad_texts(region, key))
    questions = region.questions or (None,) * len(captions)
    chosen = _draw_one(len(captions), rng, caption_choice)
    if caption_choice == "first":
        references = (captions[chosen],)
    else:
        # An answer to another question of the same region would be a wrong answer to this one.
        references = tuple(c for c, q in zip(captions, questions, strict=True) if q == questions[chosen])
    drawn = _draw_one(len(captions), rng, phrase_choice)
    if not region.referring:
        return _Texts(captions[chosen], None, questions[chosen], references)
    phrases = captions[:1] if phrase_choice == "first" else captions
    return _Texts(captions[chosen], captions[drawn], questions[chosen], references, phrases)


def _draw_one(count: int, rng: np.random.Generator, choice: Choice) -> int:
    return int(rng.integers(count)) if choice == "random" else 0


def _draw_regions(count: int, wanted: int | None, rng: np.random.Generator) -> list[int]:
    if wanted is None or wanted >= count:
        return list(range(count))
    return sorted(int(i) for i in rng.choice(count, size=wanted, replace=False))


def _image_tensor(ref: ImageRef, key: str, size: int) -> torch.Tensor:
    return torch.from_numpy(resize_to_planes(read_image(ref, key=key), size))


def _mask_tensor(ref: ImageRef, regions: Sequence[Region], key: str, size: int) -> tuple[torch.Tensor, int]:
    """Masks uint8 (K, S, S), and how many of them were kept as one pixel."""
    masks_KSS = np.empty((len(regions), size, size), np.uint8)
    tiny = 0
    for mask_SS, region in zip(masks_KSS, regions, strict=True):
        name = f"{key}, region {region.id}"
        _, area = decode_resized(region.mask, ref.height, ref.width, size, key=name, out=mask_SS)
        if not area:
            raise empty_mask(f"{key}: the mask of region {region.id!r}")
        if not mask_SS.max():  # three times faster than any()
            mask_SS[...] = shrink_mask(decode_mask(region.mask, ref.height, ref.width, key=name), size)
            tiny += 1
    return torch.from_numpy(masks_KSS), tiny


def shrink_mask(mask_HW: np.ndarray, size: int) -> np.ndarray:
    """uint8 (S, S) with the one pixel over the set pixel that is nearest to the mask's centroid.

    For regions so small that the nearest resize meets none of their pixels: they stay where they are instead of
    vanishing. The mask must not be empty.
    """
    rows, columns = np.nonzero(mask_HW)
    middle = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    height, width = mask_HW.shape
    pixel_SS = np.zeros((size, size), np.uint8)
    pixel_SS[int((rows[middle] + 0.5) * size / height), int((columns[middle] + 0.5) * size / width)] = 1
    return pixel_SS


def check_options(image_size: int, regions_per_image: int | None, caption_choice: str, phrase_choice: str) -> None:
    """Raise ConfigError for an option that `make_sample` cannot honour."""
    if image_size < 1:
        raise ConfigError(f"image_size={image_size}: needs at least 1 pixel")
    if regions_per_image is not None and regions_per_image < 1:
        raise ConfigError(f"regions_per_image={regions_per_image}: needs at least 1, or None for every region")
    for name, value in (("caption_choice", caption_choice), ("phrase_choice", phrase_choice)):
        if value not in ("first", "random"):
            raise ConfigError(f'{name}={value!r}: choose "first" or "random"')
