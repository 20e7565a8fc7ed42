"""Segmentations → 0/1 masks, and back.

pycocotools crashes, hangs or returns heap bytes on malformed input, so nothing reaches it unchecked: run-length codes
are parsed and decoded here (numpy), and only polygons, once validated, are drawn by its C code. Valid input gives the
same bits as pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from maskcap.data.record import Segmentation
from maskcap.errors import MaskDecodeError

MAX_PIXELS = 2**28
MAX_POLYGON_SIDE = 2**16  # pycocotools scales coordinates by 5 in 32-bit integers
MAX_OUTLINE_PIXELS = 2**22  # it also allocates about 100 bytes for each pixel of outline
_MAX_CHARS = 6  # of one number: 30 bits, more than MAX_PIXELS needs


def decode_mask(segmentation: Segmentation, height: int, width: int, *, key: str = "") -> np.ndarray:
    """Decode a segmentation of an image of `height` × `width` pixels to uint8 0/1, (H, W), in column-major memory.

    segmentation: COCO compressed RLE (counts str or bytes), uncompressed RLE (counts a list of int), polygons
        `[[x0, y0, x1, y1, …], …]` in pixels (several parts are united), or a bitmap (H, W) of 0/1 or bool.
    key: the sample's name, for messages.

    Raises MaskDecodeError for anything malformed or of another size. The codes are those of COCO's maskApi.c. An RLE of
    1500 × 2250 takes under 2 ms.
    """
    key = key or "mask"
    check_image_size(height, width, key)
    if isinstance(segmentation, np.ndarray):
        return _check_bitmap(segmentation, height, width, key)
    if isinstance(segmentation, Mapping):
        return _draw_runs(parse_rle(segmentation, height, width, key), height, width)
    if isinstance(segmentation, (list, tuple)):
        return _decode_polygons(segmentation, height, width, key)
    _fail(key, f"a segmentation is an RLE mapping, a list of polygons or an array, not {type(segmentation).__name__}")


def rle_area(segmentation: Mapping[str, object], height: int, width: int, *, key: str = "") -> int:
    """Number of mask pixels of an RLE, without decoding it. Raises MaskDecodeError as `decode_mask` does."""
    key = key or "mask"
    check_image_size(height, width, key)
    return int(parse_rle(segmentation, height, width, key)[1::2].sum())


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a 0/1 or bool mask (H, W) as a compressed RLE `{"size": [H, W], "counts": str}`, ready for JSON.

    Raises MaskDecodeError for another shape, an empty image or other values.
    """
    if mask.ndim != 2:
        _fail("mask", f"expected a bitmap (H, W), got shape {mask.shape}")
    height, width = mask.shape
    check_image_size(height, width, "mask")
    from pycocotools import mask as coco_mask

    rle: Any = coco_mask.encode(np.asfortranarray(_check_bitmap(mask, height, width, "mask")))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def empty_rle(height: int, width: int) -> dict[str, Any]:
    """The mask without a pixel: uncompressed RLE of an object that is not in this image or frame."""
    return {"size": [height, width], "counts": [height * width]}


def _fail(key: str, problem: str, reason: str = "malformed mask") -> NoReturn:
    raise MaskDecodeError(f"{key}: bad segmentation: {problem}{'' if problem.endswith('?') else '.'}", reason)


def _fail_rle(key: str, problem: str) -> NoReturn:
    _fail(key, problem, "malformed RLE")


def _fail_polygon(key: str, problem: str) -> NoReturn:
    _fail(key, problem, "malformed polygon")


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_image_size(height: int, width: int, key: str) -> None:
    """Raise MaskDecodeError unless height and width are positive integers of MAX_PIXELS together at most."""
    if not (_is_int(height) and _is_int(width)) or height <= 0 or width <= 0:
        _fail(key, f"the image size must be two positive integers, got {_short(height)} and {_short(width)}")
    if height * width > MAX_PIXELS:
        _fail(
            key,
            f"{_short(height)} × {_short(width)} is more than {MAX_PIXELS} pixels; is the image size right?",
        )


def _check_bitmap(mask: np.ndarray, height: int, width: int, key: str) -> np.ndarray:
    reason = "malformed bitmap"
    if mask.shape != (height, width):
        _fail(key, f"the bitmap has shape {mask.shape}, the image is {height} × {width} (height × width)", reason)
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if mask.dtype.kind not in "iuf" or not ((mask == 0) | (mask == 1)).all():
        _fail(
            key, f"a bitmap holds 0 and 1 only; this one ({mask.dtype}) holds other values. Threshold it first", reason
        )
    return mask.astype(np.uint8)


# --- run-length codes ----------------------------------------------------------------------


def parse_rle(rle: Mapping[str, object], height: int, width: int, key: str) -> np.ndarray:
    """Checked run lengths of an RLE, int64 (N,), N ≥ 1, zeros first: all ≥ 0, with sum height · width.

    height and width must be positive integers, height · width ≤ MAX_PIXELS. Raises MaskDecodeError, "malformed RLE".
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(_is_int(side) for side in size):
        _fail_rle(key, f"an RLE needs 'size': [height, width] in integers, got {_short(size)}")
    if (size[0], size[1]) != (height, width):
        _fail_rle(
            key,
            f"the RLE's size is {_short(size[0])} × {_short(size[1])}, the image {height} × {width} (height × width)",
        )
    limit = 2 * height * width + 2
    if isinstance(counts, np.ndarray):
        counts = counts.tolist()
    if isinstance(counts, (str, bytes)):
        runs = _parse_count_string(counts, limit, key)
    elif isinstance(counts, (list, tuple)):
        runs = _parse_count_list(counts, limit, key)
    else:
        _fail_rle(key, f"an RLE's 'counts' must be a string or a list of integers, got {_short(counts)}")
    if runs.size and int(runs.min()) < 0:
        _fail_rle(key, f"run {int(runs.argmin())} of the RLE has negative length {int(runs.min())}")
    # The longest run first, so that the sum cannot overflow 64 bits.
    if runs.size and int(runs.max()) > height * width:
        _fail_rle(
            key, f"run {int(runs.argmax())} of the RLE has length {int(runs.max())}, longer than {height} · {width}"
        )
    if int(runs.sum()) != height * width:
        _fail_rle(
            key, f"the RLE's runs add up to {int(runs.sum())} pixels instead of {height} · {width} = {height * width}"
        )
    return runs


def _parse_count_string(counts: str | bytes, limit: int, key: str) -> np.ndarray:
    """maskApi.c's rleFrString: 5 bits a character, low first, sign-extended; from number 3 on, plus number i − 2."""
    if isinstance(counts, str):
        if not counts.isascii():
            _fail_rle(key, "the RLE's count string has a character outside of '0' to 'o'")
        counts = counts.encode("ascii")
    if len(counts) > _MAX_CHARS * limit:
        _fail_rle(key, f"the RLE's count string of {len(counts)} characters is too long for its image")
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        _fail_rle(key, "the RLE's count string is empty")
    if codes.min() < 0 or codes.max() > 63:
        place = int(np.flatnonzero((codes < 0) | (codes > 63))[0])
        _fail_rle(key, f"character {place} of the RLE's count string, {chr(counts[place])!r}, is outside of '0' to 'o'")
    ends = np.flatnonzero(codes < 32)
    if ends.size == 0 or ends[-1] != codes.size - 1:
        _fail_rle(key, "the RLE's count string is cut off in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS:
        _fail_rle(
            key, f"number {int(lengths.argmax())} of the RLE's count string is longer than {_MAX_CHARS} characters"
        )
    if ends.size > limit:
        _fail_rle(key, f"the RLE has {ends.size} runs, too many for its image")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _parse_count_list(counts: Sequence[Any], limit: int, key: str) -> np.ndarray:
    if len(counts) > limit:
        _fail_rle(key, f"the RLE has {len(counts)} runs, too many for its image")
    for i, run in enumerate(counts):
        if not _is_int(run) or not 0 <= run <= MAX_PIXELS:
            _fail_rle(key, f"run {i} of the RLE is {_short(run)}; runs are integers from 0 to the image's pixels")
    return np.asarray(counts, dtype=np.int64)


def _draw_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    values = np.zeros(runs.size, np.uint8)
    values[1::2] = 1
    return np.repeat(values, runs).reshape(width, height).T


# --- polygons ------------------------------------------------------------------------------


def _decode_polygons(parts: Sequence[Any], height: int, width: int, key: str) -> np.ndarray:
    if not parts:
        _fail_polygon(key, "the list of polygons is empty")
    if max(height, width) > MAX_POLYGON_SIDE:
        _fail_polygon(
            key, f"polygons are drawn up to {MAX_POLYGON_SIDE} pixels a side, the image is {height} × {width}"
        )
    points = [_check_polygon(part, i, height, width, key) for i, part in enumerate(parts)]
    outline = sum(float(np.abs(xy - np.roll(xy, 1, axis=0)).max(axis=1).sum()) for xy in points)
    if outline > MAX_OUTLINE_PIXELS:
        _fail_polygon(key, f"the polygons' outline is {outline:.0f} pixels long, more than {MAX_OUTLINE_PIXELS}")
    from pycocotools import mask as coco_mask

    rles: Any = coco_mask.frPyObjects([xy.ravel().tolist() for xy in points], int(height), int(width))
    for rle in rles:
        parse_rle(rle, height, width, key)  # merge, next, never returns for runs of different sums
    united: Any = rles[0] if len(rles) == 1 else coco_mask.merge(rles, intersect=False)
    return _draw_runs(parse_rle(united, height, width, key), height, width)


def _check_polygon(part: Any, index: int, height: int, width: int, key: str) -> np.ndarray:
    """One polygon's points, float64 (N, 2) as x, y; each within one image side of the image."""
    if isinstance(part, np.ndarray):
        part = part.tolist()
    if not isinstance(part, (list, tuple)):
        _fail_polygon(
            key, f"polygon {index} must be a list [x0, y0, x1, y1, …], got {_short(part)}; polygons are a list of lists"
        )
    if len(part) < 6 or len(part) % 2:
        _fail_polygon(key, f"polygon {index} has {len(part)} numbers; it needs x and y of three points or more")
    for value in part:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            _fail_polygon(key, f"polygon {index} holds {_short(value)}, which is not a number")
        # Also false for NaN and for integers beyond float's range.
        if not -(2**31) < value < 2**31 or not math.isfinite(value):
            _fail_polygon(key, f"polygon {index} holds {_short(value)}, far outside of the image")
    xy = np.asarray(part, dtype=np.float64).reshape(-1, 2)
    sides = np.array([width, height])
    outside = np.flatnonzero(((xy < -sides) | (xy > 2 * sides)).any(axis=1))
    if outside.size:
        x, y = xy[outside[0]]
        _fail_polygon(
            key,
            f"polygon {index} has the point ({x:g}, {y:g}), far outside of the image of {width} × {height}",
        )
    return xy


def _short(value: object) -> str:
    """A value for a message: at most 40 characters, and safe for integers too long to print."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge integer"
    text = repr(value) if isinstance(value, (str, bytes, int, float, np.number, type(None))) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "…"
