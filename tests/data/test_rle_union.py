"""Several masks of one object as one segmentation."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from maskcap.data.rle import decode_mask
from maskcap.data.rle_resize import decode_resized
from maskcap.data.rle_union import UnitedFrames, UnitedRLE, unite
from maskcap.errors import MaskDecodeError


def _rle(mask_HW: np.ndarray) -> dict:
    rle: Any = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def test_the_union_has_the_pixels_of_any_part():
    rng = np.random.default_rng(0)
    for trial in range(300):
        height, width = (int(side) for side in rng.integers(1, 9, 2))
        masks = [rng.random((height, width)) < rng.random() for _ in range(rng.integers(2, 5))]
        if trial % 5 == 0:
            masks[0][:] = trial % 2  # nothing, or everything
        united = unite([_rle(mask) for mask in masks], "m")
        assert np.array_equal(decode_mask(united, height, width), np.any(masks, axis=0))


def test_a_union_is_an_rle_like_others():
    left, right = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    left[2:9, 3:12], right[5:15, 10:20] = 1, 1
    united: Any = unite([_rle(left), _rle(right)], "m")
    whole = json.loads(json.dumps(dict(united)))
    assert whole["size"] == [20, 30] and sum(whole["counts"]) == 600
    assert np.array_equal(decode_mask(whole, 20, 30), left | right)
    resized, area = decode_resized(united, 20, 30, 10)
    assert area == (left | right).sum() and resized.max() == 1
    assert unite([_rle(left)], "m") == _rle(left)


def test_polygons_are_united_by_lying_together():
    square, other = [2, 2, 8, 2, 8, 8, 2, 8], [5, 5, 15, 5, 15, 9, 5, 9]
    united = decode_mask(unite([[square], [other]], "m"), 20, 30)
    expected = np.zeros((20, 30), np.uint8)
    expected[2:8, 2:8] = expected[5:9, 5:15] = 1
    assert np.array_equal(united, expected)


def test_frames_are_united_one_by_one_and_may_be_empty():
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 0, :2], masks[1, 0, 1:4] = True, True
    first, second = [_rle(masks[0]), None, _rle(masks[0])], [_rle(masks[1]), None, None]
    frames = UnitedFrames([first, second], (4, 5), ["a", "b", "c"], "v")
    for frame, expected in zip(frames, [masks.any(0), np.zeros((4, 5)), masks[0]], strict=True):
        assert np.array_equal(decode_mask(frame, 4, 5), expected)
    assert len(frames) == 3 and frames[-1] == frames[2] == first[2] and frames[:2] == [frames[0], frames[1]]
    with pytest.raises(IndexError):
        frames[3]
    assert frames == UnitedFrames([first, second], (4, 5), ["a", "b", "c"], "v")
    assert frames != UnitedFrames([first], (4, 5), ["a", "b", "c"], "v")
    again = pickle.loads(pickle.dumps(frames))
    assert again == frames and np.array_equal(decode_mask(again[0], 4, 5), masks.any(0))
    nothing = UnitedFrames([], (4, 5), ["a", "b"], "v")
    assert [decode_mask(mask, 4, 5).sum() for mask in nothing] == [0, 0]


def test_what_cannot_be_united_is_named():
    good = _rle(np.ones((4, 5)))
    with pytest.raises(MaskDecodeError, match="v, region 1: its 2 masks are of different kinds"):
        unite([good, [[0, 0, 3, 0, 3, 3]]], "v, region 1")
    polygons = [[0, 0, 3, 0, 3, 3]]
    for columns in ([[good, polygons]], [[good, good], [None, polygons]]):
        frames = UnitedFrames(columns, (4, 5), ["a", "b"], "v")
        assert decode_mask(frames[0], 4, 5).all()
        with pytest.raises(MaskDecodeError, match="v, frame b: an RLE or null expected, got list"):
            decode_mask(frames[1], 4, 5)
    for bad, problem in (
        ({"size": [5, 4], "counts": good["counts"]}, "size is 5 × 4, the image 4 × 5"),
        ({"size": [4, 5], "counts": [3]}, "add up to 3"),
        ({"size": [4, 5]}, "'counts' must be"),
    ):
        with pytest.raises(MaskDecodeError, match=f"v, frame c: bad segmentation: .*{problem}"):
            decode_mask(UnitedRLE((good, bad), "v, frame c"), 4, 5)
    with pytest.raises(MaskDecodeError, match="needs 'size'"):
        decode_mask(UnitedRLE(({"size": 7, "counts": []}, good), "v"), 4, 5)
    with pytest.raises(KeyError):
        UnitedRLE((good,), "v")["area"]
