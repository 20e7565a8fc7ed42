"""Record → Sample: one training example, made in a data-loader worker. Shapes: K regions, S image size; uint8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from maskcap.data.choices import (
    Choice,
    FrameChoice,
    check_frames,
    check_options,
    draw_frames,
    draw_regions,
    draw_texts,
    texts_of,
)
from maskcap.data.images import read_image, resize_to_planes
from maskcap.data.record import ImageRef, Record, Region, Turn
from maskcap.data.record_rules import empty_mask, missing_parts, raise_first, uneven_pair
from maskcap.data.rle import decode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.data.turns import bad_turns, renumber


@dataclass(frozen=True)
class Sample:
    """One image (a pair of frames, F + 1 frames of a video) and K of its regions; also read as a mapping,
    `sample["mask1"]`.

    image1:     uint8 (3, S, S) RGB, the whole image resized directly, aspect ratio not kept; 0 where `blank`.
    mask1:      uint8 0/1 (K, S, S), nearest. K is 0 for a conversation about no region.
    caption:    for each region one of its captions, or None for a region without, or not to be seen in image1; None if
                the record has none at all.
    phrase:     as `caption`, drawn apart from it, and None for a region whose captions do not single it out. A region
                that is not to be seen has one all the same: it asks for an empty mask.
    question:   what `caption` answers (None: the default question).
    references: for each region every caption that answers the same question as `caption` (just that one when
                captions are taken "first"); `()` for a region without captions.
    phrases:    for each region every phrase that it may be segmented by (just the first when phrases are taken
                "first"), `()` for a region that has none; evaluation scores them all.
    region_ids: the K region ids, in the record's order.
    empty:      K flags: the region has no pixel in image1, and that is right (`Region.may_be_empty`).
    size:       height and width of the original image1, pixels.
    image2, mask2: the same regions in the other frame; pairs only. Of a still paired with itself: image1 and mask1.
    frames, frame_masks: of a video, the frames behind image1, uint8 (F, 3, S, S), and the regions' masks there, uint8
                (K, F, S, S); else None.
    turns:      the conversation; its regions are numbered as they stand here.
    blank:      whether there is no image.
    source:     first part of `key`. entry: the name that the mixture has for where it came from; "" outside of one.
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
    empty: tuple[bool, ...] = ()
    frames: torch.Tensor | None = None
    frame_masks: torch.Tensor | None = None
    turns: tuple[Turn, ...] = ()
    blank: bool = False
    entry: str = ""

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
    frames_per_sample: int = 5,
    frame_choice: FrameChoice = "random",
) -> Sample:
    """Read a record's pixels, draw K = min(regions_per_image, all) regions without replacement and decode those only.

    `rng` decides everything that is drawn: the same record and generator state give the same sample.
    `regions_per_image=None` takes every region. Drawn regions keep the record's order. Regions that the turns speak of
    always come, and of the others only such as have captions. Of a video's frames one comes from each of
    `frames_per_sample` equal spans (a random one, or the middle one), all where there are no more.

    Raises ConfigError for impossible options, DataError for a record without regions and turns, with an empty text, an
    empty mask where none may be, turns that do not fit their regions, or regions that do not pair up;
    ImageDecodeError and MaskDecodeError come from the readers, and name the key.
    """
    check_options(image_size, regions_per_image, caption_choice, phrase_choice)
    check_frames(frames_per_sample, frame_choice)
    raise_first(missing_parts(record))
    raise_first(uneven_pair(record))
    raise_first(bad_turns(record))
    drawn = draw_regions(record, regions_per_image, rng)
    regions = [record.regions1[i] for i in drawn]
    texts = [draw_texts(record.key, region, rng, caption_choice, phrase_choice) for region in regions]
    views = record.frames or (record.image1,)
    shown = draw_frames(len(views), frames_per_sample, rng, frame_choice)
    first = views[shown[0]]
    mask1, tiny_regions = _mask_tensor(first, regions, record.key, image_size, shown[0])
    image1 = _image_tensor(first, record.key, image_size)
    image2, mask2, more = _other_frame(record, drawn, image1, mask1)
    frames, frame_masks, further = _later_frames(record, shown[1:], regions, image_size)
    may_be_empty = any(region.may_be_empty for region in regions)
    empty = mask1.flatten(1).amax(1).eq(0).tolist() if may_be_empty else [False] * len(regions)
    return Sample(
        image1=image1,
        mask1=mask1,
        **texts_of(record, texts, empty),
        region_ids=[region.id for region in regions],
        key=record.key,
        size=(image_size, image_size) if first is None else (first.height, first.width),
        source=record.key.split("/", 1)[0],
        image2=image2,
        mask2=mask2,
        tiny_regions=tiny_regions + more + further,
        empty=tuple(empty),
        frames=frames,
        frame_masks=frame_masks,
        turns=renumber(record.turns, {region: place for place, region in enumerate(drawn)}),
        blank=first is None,
    )


def _other_frame(
    record: Record, drawn: Sequence[int], image1: torch.Tensor, mask1: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
    """A pair's other frame, its masks, and how many of these were kept as one pixel."""
    if record.image2 is None or record.regions2 is None:
        return None, None, 0
    if record.image2 == record.image1 and record.regions2 is record.regions1:  # a still as a pair: nothing to read
        return image1, mask1, 0
    size = image1.shape[-1]
    image2 = _image_tensor(record.image2, record.key, size)
    return image2, *_mask_tensor(record.image2, [record.regions2[i] for i in drawn], record.key, size)


def _later_frames(
    record: Record, shown: Sequence[int], regions: Sequence[Region], size: int
) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
    """The frames with these numbers, the regions' masks in them, and how many of these were kept as one pixel."""
    if not shown:
        return None, None, 0
    frames = [_image_tensor(record.frames[i], record.key, size) for i in shown]
    masks = [_mask_tensor(record.frames[i], regions, record.key, size, i) for i in shown]
    return torch.stack(frames), torch.stack([mask for mask, _ in masks], dim=1), sum(tiny for _, tiny in masks)


def _image_tensor(ref: ImageRef | None, key: str, size: int) -> torch.Tensor:
    if ref is None:
        return torch.zeros(3, size, size, dtype=torch.uint8)
    return torch.from_numpy(resize_to_planes(read_image(ref, key=key), size))


def _mask_tensor(
    ref: ImageRef | None, regions: Sequence[Region], key: str, size: int, frame: int = 0
) -> tuple[torch.Tensor, int]:
    """Masks uint8 (K, S, S) in a video's frame of that number, or in an image; how many were kept as one pixel."""
    masks_KSS = np.empty((len(regions), size, size), np.uint8)
    tiny = 0
    for mask_SS, region in zip(masks_KSS, regions, strict=True):
        assert ref is not None  # regions without an image: see missing_parts
        name = f"{key}, region {region.id}" + (f", frame {frame}" if region.frame_masks else "")
        given = region.frame_masks[frame] if region.frame_masks else region.mask
        _, area = decode_resized(given, ref.height, ref.width, size, key=name, out=mask_SS)
        if not area and not region.may_be_empty:
            raise empty_mask(f"{key}: the mask of region {region.id!r}")
        if area and not mask_SS.max():  # three times faster than any()
            mask_SS[...] = shrink_mask(decode_mask(given, ref.height, ref.width, key=name), size)
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
