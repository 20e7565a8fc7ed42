"""maskcap.data.rle against pycocotools, and against input that makes pycocotools crash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from maskcap.data.rle import MAX_PIXELS, decode_mask, encode_mask, rle_area
from maskcap.errors import MaskDecodeError

coco_mask: Any = pycocotools.mask  # its type hints are narrower than what it takes
# pycocotools' own decode is not ready for numpy 2; maskcap does not call it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GOOD = {"size": [5, 7], "counts": [7, 3, 2, 3, 20]}


def _coco_rle(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask))


def _random_masks(rng: np.random.Generator, count: int):
    for i in range(count):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        if i % 3:
            yield (rng.random((height, width)) < rng.random()).astype(np.uint8)
        else:  # long runs, with counts of several characters
            y, x = np.mgrid[:height, :width]
            yield (((y - height / 2) ** 2 + (x - width / 3) ** 2) < rng.uniform(0, 600)).astype(np.uint8)


def test_rle_round_trip_equals_pycocotools():
    for mask in _random_masks(np.random.default_rng(0), 300):
        theirs = _coco_rle(mask)
        assert encode_mask(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
        for counts in (theirs["counts"], theirs["counts"].decode()):
            decoded = decode_mask({"size": theirs["size"], "counts": counts}, *mask.shape)
            assert decoded.dtype == np.uint8 and decoded.shape == mask.shape
            np.testing.assert_array_equal(decoded, mask)
        assert rle_area(theirs, *mask.shape) == mask.sum()


def test_photo_sized_rle_equals_pycocotools():
    y, x = np.mgrid[:1500, :2250]
    rle = _coco_rle((np.sin(x / 90) + np.sin(y / 70) > 0.5).astype(np.uint8))
    np.testing.assert_array_equal(decode_mask(rle, 1500, 2250), coco_mask.decode(rle))


def test_uncompressed_rle_is_column_by_column():
    mask = decode_mask(GOOD, 5, 7)
    expected = np.zeros(35, np.uint8)
    expected[7:10] = expected[12:15] = 1
    np.testing.assert_array_equal(mask, expected.reshape(7, 5).T)
    # Runs of length 0 are legal anywhere.
    np.testing.assert_array_equal(decode_mask({"size": (5, 7), "counts": (7, 3, 0, 0, 2, 3, 20, 0)}, 5, 7), mask)


def test_polygons_equal_pycocotools():
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        parts = [
            (rng.uniform(-0.9, 1.9, (rng.integers(3, 9), 2)) * [width, height]).ravel().tolist()
            for _ in range(rng.integers(1, 4))
        ]
        theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, height, width)))
        np.testing.assert_array_equal(decode_mask(parts, height, width), theirs)


def test_overlapping_parts_are_united_not_summed():
    mask = decode_mask([[0, 0, 6, 0, 6, 6, 0, 6], [3, 3, 9, 3, 9, 9, 3, 9]], 10, 10)
    expected = np.zeros((10, 10), np.uint8)
    expected[:6, :6] = expected[3:9, 3:9] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_bitmap(dtype):
    mask = np.eye(4, 6).astype(dtype)
    decoded = decode_mask(mask, 4, 6)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.eye(4, 6))


TRIANGLE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]
BAD = {
    "no kind of segmentation": (None, "not NoneType"),
    "a bare string": ("06R4", "not str"),
    "no size": ({"counts": [35]}, "'size'"),
    "three sizes": ({"size": [5, 7, 1], "counts": [35]}, "'size'"),
    "size of floats": ({"size": [5.0, 7.0], "counts": [35]}, "'size'"),
    "other size": ({"size": [7, 5], "counts": [35]}, "7 × 5, the image 5 × 7"),
    "huge size": ({"size": [10**5000, 7], "counts": [35]}, "huge integer"),
    "no counts": ({"size": [5, 7]}, "'counts'"),
    "empty counts": ({"size": [5, 7], "counts": ""}, "empty"),
    "empty list of counts": ({"size": [5, 7], "counts": []}, "add up to 0"),
    "short": ({"size": [5, 7], "counts": [7, 3]}, "add up to 10 pixels instead of 5 · 7 = 35"),
    "long": ({"size": [5, 7], "counts": [7, 29]}, "add up to 36"),
    "negative": ({"size": [5, 7], "counts": [36, -1]}, "run 1 of the RLE is -1"),
    "float run": ({"size": [5, 7], "counts": [34, 1.0]}, "run 1 of the RLE is 1.0"),
    "bool run": ({"size": [5, 7], "counts": [34, True]}, "run 1 of the RLE is True"),
    "huge run": ({"size": [5, 7], "counts": [10**5000]}, "huge integer"),
    "too many runs": ({"size": [5, 7], "counts": [35] + [0] * 1000}, "too many"),
    "NUL": ({"size": [5, 7], "counts": "73\x00"}, "character 2"),
    "character below": ({"size": [5, 7], "counts": b"7 3"}, "character 1"),
    "character above": ({"size": [5, 7], "counts": "7p"}, "character 1"),
    "not ASCII": ({"size": [5, 7], "counts": "7é"}, "outside of"),
    "cut off": ({"size": [5, 7], "counts": "P"}, "cut off"),
    "overlong number": ({"size": [5, 7], "counts": "SQPPPPP0"}, "longer than"),
    "long string": ({"size": [5, 7], "counts": "0" * 10**6}, "too long"),
    "negative run in a string": ({"size": [5, 7], "counts": "O"}, "negative length -1"),
    "no polygons": ([], "empty"),
    "flat polygon": (TRIANGLE, "list of lists"),
    "two points": ([[0, 0, 4, 4]], "three points"),
    "odd polygon": ([[*TRIANGLE, 3]], "three points"),
    "NaN": ([[*TRIANGLE[:5], float("nan")]], "nan"),
    "infinity": ([[*TRIANGLE[:5], float("inf")]], "inf"),
    "far away": ([[*TRIANGLE[:5], 1e9]], "far outside"),
    "beyond the margin": ([[*TRIANGLE[:5], 10.1]], "(4, 10.1)"),
    "integer beyond float": ([[*TRIANGLE[:5], 10**400]], "huge integer"),
    "text for a number": ([[*TRIANGLE[:5], "4"]], "not a number"),
    "bitmap of another shape": (np.zeros((7, 5), np.uint8), "(7, 5)"),
    "bitmap of three dimensions": (np.zeros((5, 7, 1), np.uint8), "(5, 7, 1)"),
    "bitmap of 255": (np.full((5, 7), 255, np.uint8), "0 and 1"),
    "bitmap of NaN": (np.full((5, 7), np.nan), "0 and 1"),
    "bitmap of objects": (np.full((5, 7), None), "0 and 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_input_is_an_error_with_the_key(name):
    segmentation, problem = BAD[name]
    with pytest.raises(MaskDecodeError) as caught:
        decode_mask(segmentation, 5, 7, key="sa1b/train/42")
    assert str(caught.value).startswith("sa1b/train/42: ") and problem in str(caught.value)
    kinds = {dict: "malformed RLE", list: "malformed polygon", np.ndarray: "malformed bitmap"}
    assert caught.value.reason == kinds.get(type(segmentation), "malformed mask")


@pytest.mark.parametrize("size", [(0, 7), (5, 0), (-5, 7), (5.0, 7), (True, 7), (MAX_PIXELS, 2), (10**5000, 2)])
def test_bad_image_size_is_an_error(size):
    with pytest.raises(MaskDecodeError, match="size|pixels"):
        decode_mask({"size": list(size), "counts": [0]}, *size)


def test_endless_outline_is_an_error():
    with pytest.raises(MaskDecodeError, match="outline"):
        decode_mask([[0, 0, 10000, 0] * 300], 10000, 10000)


def test_encode_refuses_what_is_no_mask():
    for mask in (np.zeros((2, 3, 4)), np.zeros((0, 3)), np.full((2, 3), 2)):
        with pytest.raises(MaskDecodeError):
            encode_mask(mask)
