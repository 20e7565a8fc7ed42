"""What cannot be a sample is named, with the record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maskcap.data.record import Turn
from maskcap.data.rle import empty_rle
from maskcap.data.sa2va import make_sa2va_sample
from maskcap.errors import DataError, ImageDecodeError, MaskDecodeError

BAD = {
    "too long": ({"max_length": 300}, {}, DataError, "scenes/train/1: .* tokens, more than max_length=300"),
    "nothing": ({}, {"captions": ()}, DataError, "scenes/train/1: nothing can be said of it"),
    "empty": ({}, {"mask": empty_rle(48, 64)}, DataError, "scenes/train/1: the mask of region 'r0' is empty"),
    "mask": ({}, {"mask": {"size": [48, 64], "counts": [1]}}, MaskDecodeError, "scenes/train/1, region r0: bad"),
    "caption": ({}, {"captions": (" ",)}, DataError, "scenes/train/1: caption 0 of region 'r0' is empty"),
    "SEG": (
        {"special_tokens": ("[SEG]", "segment"), "questions": ["[SEG] {phrase}"]},
        {},
        DataError,
        "2 .SEG. and the",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_sample_is_named(case: str, scene, options, rng):
    changes, fields, error, message = BAD[case]
    record = replace(scene, regions1=(replace(scene.regions1[0], **fields),))
    with pytest.raises(error, match=message):
        make_sa2va_sample(record, rng, options(**changes))


def test_records_that_do_not_fit_are_named(scene, video, image_ref, options, rng):
    with pytest.raises(DataError, match="scenes/train/1: a pair of frames"):
        make_sa2va_sample(replace(scene, image2=scene.image1, regions2=scene.regions1), rng, options())
    with pytest.raises(DataError, match="scenes/train/1, turn 1: the question names region 7"):
        make_sa2va_sample(replace(scene, turns=(Turn("<region7>?", "a"),)), rng, options())
    gone = replace(video, turns=(Turn("What is <region2>?", "a box"),))
    with pytest.raises(DataError, match="revos/train/v: a question shows region '2', and its mask in the last frame"):
        make_sa2va_sample(gone, rng, options())
    with pytest.raises(ImageDecodeError, match="scenes/train/1"):
        make_sa2va_sample(replace(scene, image1=replace(scene.image1, path=scene.image1.path / "no")), rng, options())
