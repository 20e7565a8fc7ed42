"""Record → one sample of Sa2VA's training code. Shapes: N rows of pixels, F frames, n masks; others as in pixels.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from maskcap.data.choices import draw_frames, draw_regions, draw_texts
from maskcap.data.images import read_image
from maskcap.data.record import ImageRef, Record
from maskcap.data.record_rules import empty_mask, missing_parts, raise_first
from maskcap.data.rle import decode_mask
from maskcap.data.sa2va.conversation import exchanges, grounded, image_text, plan
from maskcap.data.sa2va.options import Sa2VAOptions
from maskcap.data.sa2va.pixels import normalised, prompt_masks, segmenter_image, select_tiles, vision_rows
from maskcap.data.sa2va.tokens import Exchange, count, encode
from maskcap.data.turns import bad_turns
from maskcap.errors import ConfigError, DataError
from maskcap.models.conversation import IMAGE_SLOT, SEG


def make_sa2va_sample(record: Record, rng: np.random.Generator, options: Sa2VAOptions) -> dict[str, Any]:
    """Draw regions, texts and frames by `rng`, read them, and write the conversation about them.

    input_ids, labels: int64 (L,); labels are −100 outside of the answers.
    pixel_values:    float32 (N, 3, S, S), ImageNet-normalised: the image or its tiles, or a video's frames; a row of
                     zeros for text alone.
    g_pixel_values:  uint8 (F, 3, 1024, 1024), not normalised; only where the answers hold [SEG].
    masks:           uint8 0/1 (n, H, W) at the original size, one for each [SEG]; of a video (n·F, H, W), all frames of
                     the first [SEG], then of the next; only where the answers hold [SEG].
    prompt_masks:    uint8 0/1 (m, G, G), the cells of the regions that the first question shows; only if it does.
    vp_overall_mask: bool (N,), the row that they are cells of, which is the last one; only with `prompt_masks`.
    key:             the record's. tiny_regions: how many regions were too small for a cell and got one all the same.

    Raises ConfigError for a tokenizer that cannot be used; DataError for a record of which nothing can be said, a pair
    of frames, masks and [SEG]s that are not as many, a sequence that is too long, and as `make_sample` does.
    """
    _check_record(record)
    drawn = _draw_regions(record, options.regions_per_image, rng)
    choices = options.caption_choice, options.phrase_choice
    texts = {region: draw_texts(record.key, record.regions1[region], rng, *choices) for region in drawn}
    refs = record.frames or ((record.image1,) if record.image1 is not None else ())
    shown = draw_frames(len(refs), options.frames_per_sample, rng, options.frame_choice)
    views = _Views(record, [refs[i] for i in shown], shown)

    what = plan(record, texts, [region for region in drawn if views.mask(region, views.last).any()], options)
    images = [read_image(ref, key=record.key) for ref in views.refs]
    rows, whole = _pixel_values(images, bool(record.frames), options)
    marks, sample = _marks(record.key, what.marked, views, whole, len(rows), options)
    rows_shown = len(rows) if images else 0
    text = image_text(rows_shown, bool(record.frames), options)
    said = exchanges(record, texts, what, text, marks, options, rng)
    _check_said(said, record.key)
    encoded = encode(said, options, record.key)
    sample |= {"input_ids": encoded.input_ids, "labels": encoded.labels, "pixel_values": rows, "key": record.key}
    regions = grounded(record, what)
    if regions:
        sample["masks"] = views.stacked(regions)
        sample["g_pixel_values"] = torch.stack([segmenter_image(image, options.seg_size) for image in images])
    _check_counts(record.key, sample, len(regions), rows_shown * options.grid**2 + sum(marks), options)
    return sample


@dataclass(frozen=True)
class _Views:
    """The images that a sample shows; their numbers in a record's frames; the regions' masks in them."""

    record: Record
    refs: Sequence[ImageRef]
    numbers: Sequence[int]
    _masks: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def mask(self, region: int, view: int) -> np.ndarray:
        """uint8 (H, W), decoded once. Raises DataError for one without a pixel where that may not be."""
        if (region, view) not in self._masks:
            self._masks[region, view] = self._decoded(region, view)
        return self._masks[region, view]

    @property
    def last(self) -> int:
        """The view in which regions are marked."""
        return len(self.refs) - 1

    def _decoded(self, region: int, view: int) -> np.ndarray:
        given, ref, number = self.record.regions1[region], self.refs[view], self.numbers[view]
        segmentation = given.frame_masks[number] if given.frame_masks else given.mask
        where = f"{self.record.key}, region {given.id}" + (f", frame {number}" if given.frame_masks else "")
        mask_HW = decode_mask(segmentation, ref.height, ref.width, key=where)
        if not given.may_be_empty and not mask_HW.any():
            raise empty_mask(f"{self.record.key}: the mask of region {given.id!r}")
        return mask_HW

    def stacked(self, regions: Sequence[int]) -> torch.Tensor:
        """uint8 (n·F, H, W): all views of the first region, then of the next."""
        if len({(ref.height, ref.width) for ref in self.refs}) > 1:
            sizes = sorted({f"{ref.height} × {ref.width}" for ref in self.refs})
            raise DataError(f"{self.record.key}: its frames have several sizes ({', '.join(sizes)}); make them one.")
        masks = [self.mask(region, view) for region in regions for view in range(len(self.refs))]
        return torch.from_numpy(np.stack(masks))


def _check_record(record: Record) -> None:
    raise_first(missing_parts(record))
    raise_first(bad_turns(record))
    if record.image2 is not None:
        raise DataError(f"{record.key}: a pair of frames; data.format=sa2va takes stills and videos (pairs=False).")


def _check_said(said: Sequence[Exchange], key: str) -> None:
    if not said:
        raise DataError(
            f"{key}: nothing can be said of it: it has no turns, and no region that is to be seen has captions. "
            "Leave its source out.",
            "no text",
        )


def _draw_regions(record: Record, wanted: int | None, rng: np.random.Generator) -> list[int]:
    """As for other samples, but of regions of which something is said."""
    if record.turns:
        return draw_regions(record, wanted, rng)
    told = [i for i, region in enumerate(record.regions1) if region.captions]
    part = replace(record, regions1=tuple(record.regions1[i] for i in told))
    return [told[i] for i in draw_regions(part, wanted, rng)]


def _pixel_values(images: Sequence[np.ndarray], is_video: bool, options: Sa2VAOptions) -> tuple[torch.Tensor, bool]:
    """`pixel_values`, and whether its last row shows a whole image."""
    size = options.image_size
    if not images:
        return torch.zeros(1, 3, size, size), False
    if is_video or not options.dynamic_tiles:
        return normalised([row for image in images for row in vision_rows(image, size)]), True
    (image,) = images
    height, width = image.shape[:2]
    tiles = select_tiles(height, width, size, options.min_tiles, options.max_tiles)
    rows = vision_rows(image, size, tiles)
    if options.thumbnail and len(rows) > 1:
        rows += vision_rows(image, size)
    return normalised(rows), options.thumbnail or len(rows) == 1


def _marks(
    key: str, regions: Sequence[int], views: _Views, whole: bool, rows: int, options: Sa2VAOptions
) -> tuple[list[int], dict[str, Any]]:
    """How many cells each marked region has; the sample's fields about them."""
    if not regions:
        return [], {"tiny_regions": 0}
    if not whole:
        raise ConfigError("sa2va.thumbnail=false: marked regions need a row that shows the whole image; set it to true")
    masks = [views.mask(region, views.last) for region in regions]
    for region, mask in zip(regions, masks, strict=True):
        if not mask.any():
            name = views.record.regions1[region].id
            raise empty_mask(f"{key}: a question shows region {name!r}, and its mask in the last frame shown")
    cells, tiny = prompt_masks(np.stack(masks), options.pool, options.grid)
    marked_N = torch.zeros(rows, dtype=torch.bool)
    marked_N[-1] = True  # the model takes a row's marked cells behind the row's own: the text has them last
    fields = {"prompt_masks": cells, "vp_overall_mask": marked_N, "tiny_regions": tiny}
    return cells.flatten(1).sum(1).tolist(), fields


def _check_counts(key: str, sample: dict[str, Any], segs: int, slots: int, options: Sa2VAOptions) -> None:
    for token, wanted, what in ((SEG, segs, "masks"), (IMAGE_SLOT, slots, "image and region tokens")):
        found = count(sample["input_ids"], token, options)
        if found != wanted:
            raise DataError(f"{key}: the text has {found} {token} and the sample {wanted} {what}.", "misaligned tokens")
