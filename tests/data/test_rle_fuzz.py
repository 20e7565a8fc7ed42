"""100 000 random, cut-off and mutated segmentations: each is a right mask or a MaskDecodeError.

What is right is said by plain Python, below, and, for what passes (only then is it safe), by pycocotools.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from maskcap.data.images import resize_mask
from maskcap.data.rle import decode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.errors import MaskDecodeError

coco_mask: Any = pycocotools.mask
# pycocotools' own decode is not ready for numpy 2; maskcap does not call it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

INPUTS = 100_000
ODD = (None, True, -1, 0, 1, 2**31, 2**63, 10**400, 0.5, math.nan, -math.inf, 1e300, "1", b"1", [], {}, "\x00")


def test_each_input_is_a_right_mask_or_an_error():
    rng = np.random.default_rng(0)
    makers = (_valid_rle, _random_string, _cut_string, _mutated_string, _mutated_runs, _mutated_polygons)
    right, refused = Counter(), Counter()
    for number in range(INPUTS):
        make = makers[number % len(makers)]
        height, width, size = rng.integers(1, 15, 3).tolist()
        segmentation = make(rng, height, width)
        (right if _check(segmentation, height, width, size) else refused)[make.__name__] += 1
    # The loop would prove little if one kind were always refused, or never.
    assert refused.pop("_valid_rle", 0) == 0 and len(right) == len(makers)
    assert len(refused) == len(makers) - 1 and min(refused.values()) > 1000, (right, refused)
    assert min(right.values()) > 20 and sum(right.values()) > INPUTS // 4, (right, refused)


def test_large_images_are_no_slower_than_their_pixels():
    """Valid, cut and mutated segmentations of photographs: no single one takes a second, right or refused."""
    rng = np.random.default_rng(1)
    valid = [_blobs(rng, 1500, 2250) for _ in range(3)]
    slowest, refused = 0.0, 0
    for number in range(120):
        rle = valid[number % 3]
        counts = rle["counts"]
        if number % 4 == 1:
            counts = counts[: int(rng.integers(len(counts)))]
        elif number % 4 == 2:
            place = int(rng.integers(len(counts)))
            counts = counts[:place] + bytes(rng.integers(48, 112, 3).tolist()) + counts[place + 3 :]
        elif number % 4 == 3:
            counts = bytes(rng.integers(48, 112, int(rng.integers(1, 200_000))).tolist())
        started = time.process_time()
        try:
            mask, area = decode_resized({"size": [1500, 2250], "counts": counts}, 1500, 2250, 1024, key="k")
        except MaskDecodeError:
            refused += 1
        else:
            whole = coco_mask.decode({"size": [1500, 2250], "counts": counts})
            assert area == whole.sum() and (mask == resize_mask(whole, 1024)).all()
        slowest = max(slowest, time.process_time() - started)
    for parts in (1, 30):
        stars = [rng.uniform(0, 8000, 2 * int(rng.integers(3, 40))).tolist() for _ in range(parts)]
        started = time.process_time()
        mask_HW = decode_mask(stars, 8000, 8000)
        assert mask_HW.any() and time.process_time() - started < 1
    assert slowest < 1 and 60 < refused < 95


def _blobs(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    """An irregular mask with thousands of runs."""
    coarse = rng.random((height // 50, width // 50)) < 0.4
    mask_HW = np.kron(coarse, np.ones((50, 50), np.uint8)).astype(np.uint8)
    return coco_mask.encode(np.asfortranarray(mask_HW))


def _check(segmentation: Any, height: int, width: int, size: int) -> bool:
    """Whether the input was decoded. Fails unless that is right, and the mask, whole and resized, is too."""
    if isinstance(segmentation, dict):
        runs = _plain_runs(segmentation, height, width)
        is_good = runs is not None
    else:
        runs = None
        is_good = _is_polygons(segmentation, height, width)
    try:
        mask_HW = decode_mask(segmentation, height, width, key="k")
    except MaskDecodeError as error:
        assert not is_good and str(error).startswith("k: ") and error.reason.startswith("malformed"), segmentation
        try:
            decode_resized(segmentation, height, width, size, key="k")
        except MaskDecodeError as again:
            assert str(again) == str(error)
            return False
        raise
    assert is_good and mask_HW.shape == (height, width) and mask_HW.dtype == np.uint8, segmentation
    if runs is not None:
        expected = b"".join(bytes([i % 2]) * run for i, run in enumerate(runs))
        assert mask_HW.tobytes("F") == expected, segmentation
        assert coco_mask.decode(_as_pycocotools_takes_it(segmentation)).tobytes("F") == expected, segmentation
    else:
        theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
        assert np.array_equal(mask_HW, theirs), segmentation
    resized_SS, area = decode_resized(segmentation, height, width, size, key="k")
    assert area == mask_HW.sum() and np.array_equal(resized_SS, resize_mask(mask_HW, size)), segmentation
    return True


def _as_pycocotools_takes_it(rle: dict[str, Any]) -> Any:
    if isinstance(rle["counts"], (str, bytes)):
        return rle
    return coco_mask.frPyObjects(rle, *rle["size"])


# --- what is right, in plain Python ----------------------------------------------------------


def _plain_runs(rle: dict[str, Any], height: int, width: int) -> list[int] | None:
    """The runs of an RLE as COCO's format says, and within the limits that rle.py sets; None for anything else."""
    if [type(side) for side in rle["size"]] != [int, int] or list(rle["size"]) != [height, width]:
        return None
    counts = rle["counts"]
    runs = list(counts) if isinstance(counts, list) else _plain_numbers(counts)
    if runs is None or any(type(run) is not int or not 0 <= run <= 2**28 for run in runs):
        return None
    return runs if sum(runs) == height * width and len(runs) <= 2 * height * width + 2 else None


def _plain_numbers(counts: str | bytes) -> list[int] | None:
    numbers: list[int] = []
    value = shift = 0
    for code in map(ord, counts) if isinstance(counts, str) else counts:
        if not 48 <= code < 112 or shift == 30:
            return None
        code -= 48
        value += (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers if shift == 0 else None


def _is_polygons(parts: list[Any], height: int, width: int) -> bool:
    return len(parts) > 0 and all(_is_polygon(part, height, width) for part in parts)


def _is_polygon(part: Any, height: int, width: int) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    if any(type(value) not in (int, float) for value in part):
        return False
    sides = [width, height] * (len(part) // 2)
    return all(-side <= value <= 2 * side for value, side in zip(part, sides, strict=True))


# --- inputs ----------------------------------------------------------------------------------


def _bitmap(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 0/1 (H, W), in column-major memory: noise, or rectangles with long runs."""
    if rng.random() < 0.5:
        return np.asfortranarray(rng.random((height, width)) < rng.random(), dtype=np.uint8)
    mask_HW = np.zeros((height, width), np.uint8, order="F")
    mask_HW[rng.integers(height) :, rng.integers(width) :] = 1
    return mask_HW


def _valid_rle(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    rle = coco_mask.encode(_bitmap(rng, height, width))
    return rle | {"counts": rle["counts"].decode()} if rng.random() < 0.5 else rle


def _random_string(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    low, high = ((48, 64), (48, 112), (0, 256))[rng.integers(3)]  # small numbers, any numbers, any bytes
    data = rng.integers(low, high, rng.integers(0, 9), dtype=np.uint8).tobytes()
    return {"size": [height, width], "counts": data.decode("latin-1") if rng.random() < 0.5 else data}


def _cut_string(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    rle = coco_mask.encode(_bitmap(rng, height, width))
    return rle | {"counts": rle["counts"][: rng.integers(0, len(rle["counts"]) + 1)]}


def _mutated_string(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    rle = coco_mask.encode(_bitmap(rng, height, width))
    data = bytearray(rle["counts"])
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(0, len(data) + 1))
        action = rng.integers(0, 5)
        if action == 0:
            data[place:place] = rng.integers(0, 256 if rng.random() < 0.3 else 112, 2, dtype=np.uint8).tobytes()
        elif action == 1:
            del data[place : place + int(rng.integers(1, 4))]
        elif action == 2:
            data[place:place] = data[: int(rng.integers(0, 4))]
        elif place < len(data):
            data[place] = int(rng.integers(48, 112)) if action == 3 else data[place] ^ (1 << int(rng.integers(8)))
    return rle | {"counts": bytes(data)}


def _mutated_runs(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    """Lengths that mostly add up, some moved, some replaced by what no length is; sizes seldom."""
    cuts = np.sort(rng.integers(0, height * width + 1, rng.integers(0, 6)))
    runs: list[Any] = np.diff(cuts, prepend=0, append=height * width).tolist()
    size: list[Any] = [height, width]
    choice = rng.random()
    if choice < 0.3:
        runs[rng.integers(len(runs))] = ODD[rng.integers(len(ODD))]
    elif choice < 0.4:
        runs[rng.integers(len(runs))] += int(rng.integers(-3, 4))
    elif choice < 0.5:
        size[rng.integers(2)] = ODD[rng.integers(len(ODD))]
    return {"size": size, "counts": runs}


def _mutated_polygons(rng: np.random.Generator, height: int, width: int) -> list[Any]:
    """One to three parts of three to six points, inside or near the image, some whole numbers; then mutated."""
    parts: list[Any] = []
    for _ in range(rng.integers(1, 4)):
        points = rng.uniform(-0.3, 1.3, (rng.integers(3, 7), 2)) * (width, height)
        parts.append((points.round() if rng.random() < 0.3 else points).ravel().tolist())
    choice, part = rng.random(), parts[rng.integers(len(parts))]
    if choice < 0.2:
        part[rng.integers(len(part))] = ODD[rng.integers(len(ODD))]
    elif choice < 0.3:
        part[rng.integers(len(part))] *= 10 ** int(rng.integers(0, 12))
    elif choice < 0.4:
        del part[rng.integers(len(part)) :]
    elif choice < 0.45:
        parts[rng.integers(len(parts))] = ODD[rng.integers(len(ODD))]
    elif choice < 0.5:
        return part
    return parts
