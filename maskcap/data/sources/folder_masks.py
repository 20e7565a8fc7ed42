"""Mask PNGs of a plain folder → RLE, one for each object: binary masks and index images."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.content import read_bytes
from maskcap.data.image_checks import QUARTER_TURNS, orientation_of
from maskcap.data.image_sizes import image_size
from maskcap.data.sources.files import require
from maskcap.errors import DataError

MAX_OBJECTS = 4096  # of an index image: more are noise, or a picture
SOFT_VALUES = 64  # more of them in 8 bits that no caption names are the soft edge of a drawn mask
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


def mask_objects(path: Path, size: tuple[int, int], where: str, *, indexed: bool) -> dict[int, dict[str, Any]]:
    """Value → RLE of each object of a mask PNG; 0 is no object. A binary one has a single value, whichever it is.

    size: (height, width) of its image. indexed: whether somebody speaks of one of its values, so that it is known to
    be an index image. One pass over the pixels, however many objects.

    Raises DataError: unreadable, colours, another size, nothing but 0, more than MAX_OBJECTS values, or (in 8 bits) 255
    beside other values, or more than SOFT_VALUES of them unless it is `indexed`.
    """
    where = f"{where}: {path}"
    values_HW = _read_values(path, where)
    _check_size(values_HW.shape[:2], size, where)
    values = np.flatnonzero(np.bincount(values_HW.ravel()))
    _check_values(values[values > 0], values_HW.dtype == np.uint8, indexed, where)
    return encode_values(values_HW)


def encode_values(values_HW: np.ndarray) -> dict[int, dict[str, Any]]:
    """Value → compressed RLE of the pixels that have it, for every value of an unsigned (H, W) but 0; ascending."""
    from pycocotools import mask as coco_mask

    height, width = values_HW.shape
    flat = values_HW.T.ravel()  # down the columns, as RLE counts
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    values, firsts = np.unique(flat[starts][order], return_index=True)
    found = {}
    for value, runs in zip(values.tolist(), np.split(order, firsts[1:]), strict=True):
        if value:
            edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
            rest = [flat.size] if edges[-1] < flat.size else []
            runs_of: Any = {"size": [height, width], "counts": np.diff(np.concatenate([[0], edges, rest]))}
            rle: Any = coco_mask.frPyObjects(runs_of, height, width)
            found[value] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return found


def _check_values(values: np.ndarray, in_8_bits: bool, indexed: bool, where: str) -> None:
    """Whether a mask's values but 0, ascending, are those of one mask or of an index image."""
    count = len(values)
    require(count > 0, where, "the mask is empty: all its pixels are 0. Draw it, or remove it", "empty mask")
    problem = f"it has {count} values, and an index image has {MAX_OBJECTS} objects at most. Is it a mask at all?"
    require(count <= MAX_OBJECTS, where, problem, "malformed bitmap")
    if in_8_bits and count > 1 and values[-1] == _SOFT:
        problem = (
            f"it has the value 255 beside {count - 1} others. Is it one mask with a soft edge? "
            "Threshold it. Is 255 a border in an index image? Make it 0"
        )
        raise DataError(f"{where}: {problem}.", "malformed bitmap")
    problem = (
        f"it has {count} values, and no line names one. Is it one mask with a soft edge? Threshold it. Is it an index "
        'image? Name an object ("NAME.png#3") in captions.jsonl, or save it in 16 bits'
    )
    require(not in_8_bits or indexed or count <= SOFT_VALUES, where, problem, "malformed bitmap")


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
