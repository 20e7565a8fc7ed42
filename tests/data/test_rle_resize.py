"""Masks resized from their runs are those that are resized from their pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from maskcap.data import rle_resize
from maskcap.data.images import resize_mask
from maskcap.data.rle import decode_mask, encode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.errors import MaskDecodeError


def _masks(rng: np.random.Generator, height: int, width: int) -> Iterator[np.ndarray]:
    """uint8 0/1 (H, W): empty, full, a pixel, a row, a column, noise, a blob."""
    mask_HW = np.zeros((height, width), np.uint8)
    yield mask_HW
    yield mask_HW + 1
    row, column = rng.integers(height), rng.integers(width)
    for place in ((row, column), (row,), (slice(None), column)):
        mask_HW = np.zeros((height, width), np.uint8)
        mask_HW[place] = 1
        yield mask_HW
    yield (rng.random((height, width)) < rng.random()).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    yield ((y - row) ** 2 + 0.5 * (x - column) ** 2 < rng.uniform(0, height * width / 8)).astype(np.uint8)


def _nearest(mask_HW: np.ndarray, size: int) -> np.ndarray:
    return functional.interpolate(torch.tensor(mask_HW)[None, None], (size, size), mode="nearest")[0, 0].numpy()


def test_equals_torchs_nearest_for_any_sizes():
    rng = np.random.default_rng(0)
    sides = [(1, 1), (1, 90), (90, 1), (2, 3), (16, 32), (64, 64), (33, 127), *rng.integers(1, 90, (60, 2)).tolist()]
    for height, width in sides:
        for mask_HW in _masks(rng, height, width):
            size = int(rng.choice([1, 2, 7, 16, 32, 64, 100, 181, height, width]))
            resized, area = decode_resized(encode_mask(mask_HW), height, width, size)
            assert resized.dtype == np.uint8 and resized.flags.c_contiguous and resized.flags.writeable
            np.testing.assert_array_equal(resized, _nearest(mask_HW, size), err_msg=f"{height}×{width} → {size}")
            assert area == mask_HW.sum()


@pytest.mark.parametrize(("height", "width"), [(1500, 2250), (2250, 1500), (480, 640), (1024, 1024)])
def test_equals_the_way_by_pixels_at_the_size_of_photos(height, width):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    mask_HW = (np.sin(x / 90) + np.sin(y / 70) + 0.1 * rng.random((height, width)) > 0.7).astype(np.uint8)
    rle = encode_mask(mask_HW)
    resized, area = decode_resized(rle, height, width, 1024)
    np.testing.assert_array_equal(resized, resize_mask(decode_mask(rle, height, width), 1024))
    assert area == mask_HW.sum()


def test_a_place_to_write_to():
    mask_HW = np.zeros((24, 32), np.uint8)
    mask_HW[3:9, 5:20] = 1
    stack_2SS = np.full((2, 40, 40), 7, np.uint8)
    for segmentation, place_SS in zip((encode_mask(mask_HW), mask_HW), stack_2SS, strict=True):
        resized, _ = decode_resized(segmentation, 24, 32, 40, out=place_SS)
        assert resized is place_SS
        np.testing.assert_array_equal(place_SS, _nearest(mask_HW, 40))


def test_runs_of_length_0_are_legal():
    for counts in ([7, 3, 0, 0, 2, 3, 20], [0, 0, 7, 3, 2, 3, 20, 0, 0], [35], [0, 35], [35, 0]):
        rle = {"size": [5, 7], "counts": counts}
        for size in (1, 4, 7, 12):
            resized, area = decode_resized(rle, 5, 7, size)
            np.testing.assert_array_equal(resized, _nearest(decode_mask(rle, 5, 7), size))
            assert area == sum(counts[1::2])


def test_polygons_and_bitmaps():
    polygons = [[1.0, 1.0, 20.0, 3.0, 12.0, 22.0], [15.0, 2.0, 28.0, 9.0, 17.0, 20.0]]
    for segmentation in (polygons, decode_mask(polygons, 24, 32), decode_mask(polygons, 24, 32).astype(bool)):
        resized, area = decode_resized(segmentation, 24, 32, 16)
        whole_HW = decode_mask(segmentation, 24, 32)
        np.testing.assert_array_equal(resized, _nearest(whole_HW, 16))
        assert area == whole_HW.sum() > 0


def test_long_sides_go_the_way_by_pixels():
    """The tables of places would be longer than the mask."""
    width = rle_resize._MAX_SIDE + 7
    mask_HW = (np.arange(2 * width).reshape(2, width) % 97 < 40).astype(np.uint8)
    resized, area = decode_resized(encode_mask(mask_HW), 2, width, 50)
    np.testing.assert_array_equal(resized, _nearest(mask_HW, 50))
    assert area == mask_HW.sum()


@pytest.mark.parametrize(
    ("segmentation", "height", "problem"),
    [({"size": [5, 7], "counts": [7, 3]}, 5, "add up to 10"), ([[0, 0, 4]], 5, "3 numbers"), (None, 5, "NoneType")]
    + [({"size": [5, 7], "counts": [35]}, height, "size") for height in (0, -5, 5.0, None, "5")],
)
def test_errors_are_decode_masks(segmentation, height, problem):
    with pytest.raises(MaskDecodeError, match=problem) as caught:
        decode_resized(segmentation, height, 7, 16, key="sa1b/train/42")
    with pytest.raises(MaskDecodeError) as expected:
        decode_mask(segmentation, height, 7, key="sa1b/train/42")
    assert str(caught.value) == str(expected.value) and caught.value.reason == expected.value.reason
