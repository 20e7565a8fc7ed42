"""Qwen2-VL's resizing: sizes and pixels equal to its own processor's."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from maskcap.errors import ConfigError, DataError
from maskcap.vision_tokens.block_resize import BlockResize


def test_sizes_are_those_of_the_processor():
    rng = np.random.default_rng(0)
    rules = [
        BlockResize(),
        BlockResize(28, 256 * 784, 320 * 784),
        BlockResize(32, 1024, 12_845_056),
        BlockResize(28, 1, 784),
    ]
    for height, width in [(1, 1), (10, 2000), (13, 14), (42, 70), *rng.integers(1, 3000, (300, 2)).tolist()]:
        if max(height, width) > 200 * min(height, width):
            continue
        for rule in rules:
            stock = smart_resize(height, width, rule.cell, rule.min_pixels, rule.max_pixels)
            assert rule.size(height, width) == stock, (height, width, rule)


@pytest.mark.parametrize("size", [(61, 100), (425, 640), (30, 30)])
def test_pixels_are_those_of_the_processor(size: tuple[int, int]):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    rule = BlockResize(min_pixels=3136, max_pixels=100_352)
    processor = Qwen2VLImageProcessorPil(
        min_pixels=rule.min_pixels, max_pixels=rule.max_pixels, do_rescale=False, do_normalize=False
    )
    stock = processor(image, input_data_format="channels_last", return_tensors="np")
    _, rows, columns = stock["image_grid_thw"][0] // (1, 2, 2)
    patches = stock["pixel_values"].reshape(rows, columns, 2, 2, 3, 2, 14, 14)[..., 0, :, :]
    pixels = patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(28 * rows, 28 * columns, 3)
    resized = rule.resize(image)
    assert resized.dtype == np.uint8 and np.array_equal(resized, pixels)


def test_an_image_that_fits_stays_the_same():
    image = np.zeros((56, 84, 3), np.uint8)
    assert BlockResize().resize(image) is image


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cell": 0}, "cell=0"),
        ({"min_pixels": 0}, "1 ≤ min_pixels"),
        ({"min_pixels": 4000, "max_pixels": 3000}, "min_pixels=4000"),
        ({"min_pixels": 1, "max_pixels": 783}, "less than one cell of 28 × 28"),
    ],
)
def test_limits_that_no_image_keeps(given: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        BlockResize(**given)


def test_an_image_that_is_too_slender():
    assert BlockResize().size(1, 200)[0] == 28
    with pytest.raises(DataError, match="1 × 201 px is over 200 times"):
        BlockResize().size(1, 201)
