"""Videos → samples: frames, a phrase's masks over them, marked regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from maskcap.data.sa2va import make_sa2va_sample
from maskcap.errors import DataError
from tests.data.sa2va.drawn import IMAGE, SURE, assert_pixels, assert_says, box, large, normal, rle


def test_a_phrase_over_the_frames_of_a_video(video, options, spelled, rng):
    sample = make_sa2va_sample(video, rng, options(frames_per_sample=3, frame_choice="middle"))
    shown = [1, 3, 5]
    start = "\n".join([IMAGE] * 3)
    expected = [(f"{start}Please segment the one that wanders in this image.", SURE), ("which one leaves?", SURE)]
    assert_says(sample, spelled(expected))
    masks = [box(40, 60, 4 * i, 5 * i) for i in shown]  # of one phrase first, then of the other
    masks += [box(40, 60, 0, 40), np.zeros((40, 60)), np.zeros((40, 60))]
    np.testing.assert_array_equal(sample["masks"].numpy(), np.stack(masks))
    images = [Image.open(video.frames[i].path) for i in shown]
    assert_pixels(sample["g_pixel_values"], np.stack([large(image) for image in images]))
    assert_pixels(sample["pixel_values"], normal([np.asarray(image.resize((448, 448))) for image in images]))


def test_regions_of_a_video_are_marked_in_its_last_frame(video, options, spelled, rng):
    sample = make_sa2va_sample(
        replace(video, key="osprey/x/v"), rng, options(frames_per_sample=2, frame_choice="middle")
    )
    expected = box(40, 60, 16, 20)[np.arange(16) * 40 // 16][:, np.arange(16) * 60 // 16]
    np.testing.assert_array_equal(
        sample["prompt_masks"].numpy(), expected[None]
    )  # the other is gone, and not described
    assert sample["vp_overall_mask"].tolist() == [False, True]
    slots = "<IMG_CONTEXT>" * int(expected.sum())
    start = f"{IMAGE}\n{IMAGE}There are 1 part regions in the picture: region1<vp>{slots}</vp>.\n"
    question = "Please give a short description of region1."
    assert_says(sample, spelled([(f"{start}{question}", "the one that wanders")]))


def test_frames_of_several_sizes_are_named(video, image_ref, options, rng):
    odd = image_ref("odd", 20, 60)
    wanders = video.regions1[0]
    frames = (*video.frames[:1], odd)
    masks = (wanders.frame_masks[0], rle(box(20, 60, 0, 0)))
    record = replace(video, frames=frames, regions1=(replace(wanders, frame_masks=masks),))
    with pytest.raises(DataError, match="revos/train/v: its frames have several sizes .20 × 60, 40 × 60."):
        make_sa2va_sample(record, rng, options())
