"""What an image must pass before its pixels are decoded: its size, and the EXIF tag that asks viewers to turn it."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from maskcap.data.record import ImageRef
from maskcap.errors import ImageDecodeError

# Pillow's own limit against decompression bombs; a small PNG can claim gigabytes of pixels.
MAX_PIXELS = 89_478_485
_EXIF_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)  # the orientations that swap height and width
TURNS = (2, 3, 4, *QUARTER_TURNS)


def fail(where: str, problem: str, reason: str = "unreadable image") -> NoReturn:
    """Raise ImageDecodeError for the image at `where`; `reason` is what counts of bad samples go by."""
    raise ImageDecodeError(f"{where}: {problem}{'' if problem.endswith('?') else '.'}", reason)


def expected_size(ref: ImageRef) -> tuple[int, int]:
    """Height and width that the file must have: those of the stored copy, if a resized one is stored."""
    return ref.stored or (ref.height, ref.width)


def check_pixel_limit(height: int, width: int, where: str) -> None:
    """Raise ImageDecodeError, "image over the pixel limit", above MAX_PIXELS; before decoding."""
    if height * width > MAX_PIXELS:
        problem = f"{height} × {width} is more than {MAX_PIXELS} pixels. Make a smaller copy"
        fail(where, problem, "image over the pixel limit")


def check_size(ref: ImageRef, height: int, width: int, where: str) -> None:
    """Raise ImageDecodeError unless the file's size is the one expected and within MAX_PIXELS; before decoding."""
    check_pixel_limit(height, width, where)
    if (height, width) != expected_size(ref):
        says = "{} × {}".format(*expected_size(ref))
        fail(
            where,
            f"the file is {height} × {width} pixels (height × width), its annotation says {says}. "
            "Is it the image that was annotated, neither resized nor rotated?",
            "wrong size",
        )


def orientation_of(image: Any) -> int:
    """The orientation tag of an open Pillow image, 1 (upright) where there is none."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # unreadable EXIF says nothing of orientation; the pixels are what counts
        return 1
    return 1 if orientation == 0 else orientation


def check_orientation(ref: ImageRef, orientation: int, height: int, width: int, where: str) -> bool:
    """Whether the pixels, stored as `height` × `width`, must be turned as the tag asks.

    They must where `ref` is of the upright view, or where the annotation's size is the turned one: its masks were drawn
    on the turned image. Raises ImageDecodeError for any other tag than upright, since the masks could be meant for
    either, and for a wrong size.
    """
    if ref.upright:
        check_size(ref, *shown_size(height, width, orientation), where)
        return orientation in TURNS
    if orientation in QUARTER_TURNS and height != width and (width, height) == expected_size(ref):
        check_pixel_limit(height, width, where)
        return True
    check_size(ref, height, width, where)
    if orientation != 1:
        fail(
            where,
            f"an EXIF tag asks viewers to rotate it (orientation {orientation}); its masks may be meant for either. "
            "Rotate the pixels or remove the tag, whichever the annotation means",
            "orientation tag",
        )
    return False


def shown_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) as viewers show pixels that are stored as `height` × `width`."""
    return (width, height) if orientation in QUARTER_TURNS else (height, width)


def turn(pixels_HW3: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as EXIF orientation 1 (not at all) … 8 asks: (H, W, 3), for 5 … 8 (W, H, 3); contiguous."""
    turned = pixels_HW3
    if orientation in QUARTER_TURNS:
        turned = turned.transpose(1, 0, 2)  # 5: mirrored along the main diagonal
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)
