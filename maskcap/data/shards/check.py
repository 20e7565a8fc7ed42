"""What a record must pass before it is stored: that `make_sample` could use any of its regions."""

from __future__ import annotations

from collections.abc import Mapping

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.rle import decode_mask, rle_area
from maskcap.errors import DataError


def check_annotation(record: Record) -> None:
    """Raise DataError for the first problem of a record's regions, captions and masks; reads no image.

    Run-length codes are parsed, not drawn: 0.1 ms each.
    """
    key, regions1, regions2 = record.key, record.regions1, record.regions2
    if not regions1:
        raise DataError(f"{key}: the record has no regions; its source should have left it out.", "no regions")
    if (record.image2 is None) != (regions2 is None):
        raise DataError(f"{key}: a pair needs both image2 and regions2.")
    if regions2 is not None and len(regions2) != len(regions1):
        raise DataError(
            f"{key}: {len(regions1)} regions in the first frame, {len(regions2)} in the second; a pair shows the same "
            "objects in the same order."
        )
    for region in regions1:
        _check_texts(region, key)
        _check_mask(region, record.image1, key)
    if record.image2 is not None:
        for region in regions2 or ():
            _check_mask(region, record.image2, f"{key}, other frame")


def _check_texts(region: Region, key: str) -> None:
    for number, caption in enumerate(region.captions):
        if not caption.strip():
            message = f"{key}: caption {number} of region {region.id!r} is empty; write one or remove it."
            raise DataError(message, "empty caption")
    if region.captions and region.questions and len(region.questions) != len(region.captions):
        raise DataError(
            f"{key}: region {region.id!r} has {len(region.captions)} captions and {len(region.questions)} questions; "
            "give one question for each caption or none at all."
        )


def _check_mask(region: Region, ref: ImageRef, key: str) -> None:
    where = f"{key}, region {region.id}"
    if isinstance(region.mask, Mapping):
        area = rle_area(region.mask, ref.height, ref.width, key=where)
    else:
        area = int(decode_mask(region.mask, ref.height, ref.width, key=where).sum())
    if not area:
        raise DataError(
            f"{where}: the mask is empty: there is nothing to describe or to segment. Remove the region from the "
            "annotation, or correct its mask.",
            "empty mask",
        )
