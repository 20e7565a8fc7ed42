"""Mask PNGs of a plain folder → RLE, one for each object: binary masks and index images."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.content import read_bytes
from maskcap.data.image_checks import QUARTER_TURNS, orientation_of
from maskcap.data.image_sizes import image_size
from maskcap.data.rle import encode_mask
from maskcap.data.sources.files import require
from maskcap.errors import DataError

_SOFT = 255  # beside other values: the soft edge of a drawn mask, or a border that is no object


def annotated_size(image: Path, masks: Path, where: str) -> tuple[int, int]:
    """(height, width) of an image as its mask PNG means it: the file's, or that of its view where EXIF turns it.

    Reads headers only. Raises ImageDecodeError for either file, DataError for a mask of another size.
    """
    from PIL import Image

    size, of_mask = image_size(image, f"{where}: {image}"), image_size(masks, f"{where}: {masks}")
    if size != of_mask and size[::-1] == of_mask:
        with Image.open(image) as opened:
            if orientation_of(opened) in QUARTER_TURNS:
                return of_mask
    _check_size(of_mask, size, f"{where}: {masks}")
    return size


def mask_objects(path: Path, size: tuple[int, int], where: str) -> dict[int, dict[str, Any]]:
    """Value → RLE of each object of a mask PNG; 0 is no object. A binary one has a single value, whichever it is.

    size: (height, width) of its image. Raises DataError: unreadable, colours, another size, nothing but 0, or (in 8
    bits) 255 beside other values.
    """
    where = f"{where}: {path}"
    values_HW = _read_values(path, where)
    _check_size(values_HW.shape[:2], size, where)
    values = np.flatnonzero(np.bincount(values_HW.ravel()))
    values = [int(value) for value in values if value]
    require(bool(values), where, "the mask is empty: all its pixels are 0. Draw it, or remove it", "empty mask")
    if values_HW.dtype == np.uint8 and values[-1] == _SOFT and len(values) > 1:
        raise DataError(
            f"{where}: it has the value 255 beside {len(values) - 1} others. Is it one mask with a soft edge? "
            "Threshold it. Is 255 a border in an index image? Make it 0.",
            "malformed bitmap",
        )
    return {value: encode_mask(values_HW == value) for value in values}


def _check_size(of_mask: tuple[int, ...], size: tuple[int, int], where: str) -> None:
    problem = "the mask is {} × {}, its image {} × {} (height × width). Save it at the image's size"
    require(tuple(of_mask) == size, where, problem.format(*of_mask, *size), "wrong size")


def _read_values(path: Path, where: str) -> np.ndarray:
    """The values of a mask PNG as they are stored, (H, W) uint8 or uint16: palette indices, or grey in any channels."""
    from PIL import Image

    image_size(path, where)  # refuses what is too large to decode
    try:
        with Image.open(BytesIO(read_bytes(path, where)), formats=("PNG",)) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: the PNG cannot be read ({error}). Save it again.", "unreadable mask") from error
    if values.ndim == 3:
        opaque = mode in ("LA", "RGBA") and (values[..., -1] == 255).all()
        channels = values[..., :-1] if opaque else values
        values = channels[..., 0] if (channels == channels[..., :1]).all() else values
    if mode == "1":
        values = values.astype(np.uint8)
    whole = values.ndim == 2 and values.dtype.kind == "u"
    require(
        whole, where, f"the mask's pixels ({mode}) are neither grey nor indices. Save it in grey", "unreadable mask"
    )
    return values
