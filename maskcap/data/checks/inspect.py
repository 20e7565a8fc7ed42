"""One record, read whole: every problem it has, and its measures.

A record has a problem here exactly when `make_sample` refuses it (with all of its regions, and of a video all frames
that have masks): the same rules and readers decide. Of a video without masks three frames are read (`frames_to_check`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskcap.data.bad_samples import BadSample
from maskcap.data.checks.statistics import Statistics
from maskcap.data.images import nearest_indices, read_image
from maskcap.data.record import ImageRef, Record, Region, Segmentation
from maskcap.data.record_rules import bad_texts, empty_mask, frames_to_check, missing_parts, uneven_pair
from maskcap.data.rle import decode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.data.source_facts import annotation_of, key_of
from maskcap.data.sources.lenient import problems_of
from maskcap.data.turns import bad_turns
from maskcap.errors import DataError, MaskDecodeError


@dataclass(frozen=True)
class Grids:
    """image_size: S of the S × S masks that models get; grid: cells a side of their token grid."""

    image_size: int = 1024
    grid: int = 16


@dataclass(frozen=True)
class Inspected:
    """A record that was read (None: it could not be), and what is wrong with it."""

    record: Record | None
    problems: tuple[BadSample, ...]


def inspect_record(source: Sequence[Record], index: int, grids: Grids, into: Statistics) -> Inspected:
    """Read record `index` with every image and mask, and count it `into` the statistics.

    Errors become problems, all of them; messages name the annotation file where the source knows it. Cost: that of
    decoding each image whole and each mask once at S × S.
    """
    into.counts["records"] += 1
    record = None
    try:
        record = source[index]
    except DataError as error:
        key, errors = key_of(source, index), list(problems_of(error))
    else:
        key, errors = record.key, list(_problems(record, grids, into))
    annotation = annotation_of(source, index)
    problems = tuple(BadSample(key, error.reason, _with_file(str(error), annotation)) for error in errors)
    into.counts["bad_records"] += bool(problems)
    for problem in problems:
        into.note(problem)
    return Inspected(record, problems)


def _problems(record: Record, grids: Grids, into: Statistics) -> Iterator[DataError]:
    key, regions1 = record.key, record.regions1
    into.counts["regions"] += len(regions1)
    into.counts["without_image"] += record.image1 is None
    into.histograms["regions_per_record"].add([len(regions1)])
    yield from missing_parts(record)
    yield from _turns(record, into)
    if record.frames:
        yield from _frames(record, into)
    elif record.image1 is not None:
        yield from _image(record.image1, key, into)
    for region in regions1:
        yield from _texts(region, key, into)
        for mask, ref, where in _masks(record, region):
            yield from _mask(region, mask, ref, where, grids, into)
    if record.image2 is None or record.regions2 is None:
        return
    into.counts["pairs"] += 1
    yield from uneven_pair(record)
    yield from _image(record.image2, f"{key}, other frame", into)
    for region in record.regions2:
        where = f"{key}, other frame, region {region.id}"
        yield from _mask(region, region.mask, record.image2, where, grids, into)


def _turns(record: Record, into: Statistics) -> Iterator[DataError]:
    if record.turns:
        into.counts["turns"] += len(record.turns)
        into.counts["answer_phrases"] += sum(len(turn.phrases) for turn in record.turns)
        into.histograms["turns_per_record"].add([len(record.turns)])
        into.histograms["answer_words"].add(len(turn.answer.split()) for turn in record.turns)
        into.histograms["phrases_per_answer"].add(len(turn.phrases) for turn in record.turns)
    yield from bad_turns(record)


def _frames(record: Record, into: Statistics) -> Iterator[DataError]:
    into.counts["videos"] += 1
    into.histograms["frames_per_record"].add([len(record.frames)])
    for number in frames_to_check(record):
        yield from _image(record.frames[number], f"{record.key}, frame {number}", into)


def _masks(record: Record, region: Region) -> Iterator[tuple[Segmentation, ImageRef, str]]:
    """Each mask of a region, the image that it is of, and its name."""
    where = f"{record.key}, region {region.id}"
    if record.frames:  # as many as there are frames: else missing_parts says so
        for number, (mask, ref) in enumerate(zip(region.frame_masks, record.frames, strict=False)):
            yield mask, ref, f"{where}, frame {number}"
    elif record.image1 is not None:
        yield region.mask, record.image1, where


def _image(ref: ImageRef, where: str, into: Statistics) -> Iterator[DataError]:
    try:
        read_image(ref, key=where)
    except DataError as error:
        yield error
        return
    into.counts["images"] += 1
    into.histograms["height"].add([ref.height])
    into.histograms["width"].add([ref.width])
    into.histograms["aspect_ratio"].add([ref.width / ref.height])


def _texts(region: Region, key: str, into: Statistics) -> Iterator[DataError]:
    captions, questions = region.captions, region.questions
    into.counts["captions"] += len(captions)
    into.counts["regions_with_captions"] += bool(captions)
    into.counts["questions"] += sum(question is not None for question in questions)
    into.histograms["captions_per_region"].add([len(captions)])
    into.histograms["caption_words"].add(len(caption.split()) for caption in captions)
    yield from bad_texts(region, key)


def _mask(
    region: Region, mask: Segmentation, ref: ImageRef, where: str, grids: Grids, into: Statistics
) -> Iterator[DataError]:
    size = grids.image_size
    try:
        mask_SS, area = decode_resized(mask, ref.height, ref.width, size, key=where)
    except MaskDecodeError as error:
        yield MaskDecodeError(str(error), _kind(mask) if error.reason == MaskDecodeError.reason else error.reason)
        return
    into.counts["masks"] += 1
    if not area:
        into.counts["empty_masks"] += 1
        into.counts["empty_by_right"] += region.may_be_empty
        if not region.may_be_empty:
            yield empty_mask(f"{where}: the mask")
        return
    into.histograms["mask_area"].add([area / (ref.height * ref.width)])
    if not mask_SS.any():
        from maskcap.data.sample import shrink_mask

        into.counts["kept_as_one_pixel"] += 1
        mask_SS = shrink_mask(decode_mask(mask, ref.height, ref.width), size)
    into.counts["vanish_on_grid"] += not pool_mask(mask_SS, grids.grid).any()


def pool_mask(mask_SS: np.ndarray, grid: int) -> np.ndarray:
    """`pool_masks(…, mode="nearest")` of one mask (S, S) without torch: uint8 (G, G)."""
    rows = nearest_indices(mask_SS.shape[0], grid)
    return mask_SS[rows][:, nearest_indices(mask_SS.shape[1], grid)]


def _kind(mask: Segmentation) -> str:
    if isinstance(mask, np.ndarray):
        return "malformed bitmap"
    return "malformed polygon" if isinstance(mask, (list, tuple)) else "malformed RLE"


def _with_file(message: str, annotation: str | None) -> str:
    return message if annotation is None or annotation in message else f"{message} Annotated in {annotation}."
