"""Every tensor of pixels against a computation of its own, on portrait, landscape, square and tiny images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from maskcap.data.sa2va.pixels import normalised, prompt_masks, segmenter_image, select_tiles, vision_rows

SIZES = [(96, 64), (64, 96), (3, 5), (20, 17), (448, 448), (900, 610), (1, 1)]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def photo(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3): waves and noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 5)], axis=-1) * 90 + 128
    noise = np.random.default_rng(height * width).integers(-30, 30, waves.shape)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def weights(length: int, size: int) -> np.ndarray:
    """float64 (size, length): antialiased bicubic (a = −0.5) as a matrix, written from its definition."""
    scale = length / size
    stretch = max(scale, 1.0)
    centers = (np.arange(size)[:, None] + 0.5) * scale
    distance = np.abs((np.arange(length)[None] + 0.5 - centers) / stretch)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    found = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return found / found.sum(axis=1, keepdims=True)


def assert_bicubic(found: np.ndarray, image_HW3: np.ndarray, size: int) -> None:
    """The same but for rounding, of fixed-point weights and to 8 bits after each of both directions."""
    rows, columns = weights(image_HW3.shape[0], size), weights(image_HW3.shape[1], size)
    half = np.clip(np.einsum("xw,hwc->hxc", columns, image_HW3.astype(np.float64), optimize=True), 0, 255)
    expected = np.clip(np.einsum("yh,hxc->yxc", rows, half, optimize=True), 0, 255)
    apart = np.abs(found - expected)
    assert apart.max() <= 1.5 and apart.mean() <= 0.4


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_vision_tower_sees_the_whole_image_bicubic_and_normalised(height: int, width: int):
    image = photo(height, width)
    pixels = normalised(vision_rows(image, 448))
    assert pixels.shape == (1, 3, 448, 448) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    resized = np.asarray(Image.fromarray(image).resize((448, 448), Image.Resampling.BICUBIC), np.float32)
    np.testing.assert_array_equal(pixels[0].permute(1, 2, 0).numpy(), (resized / np.float32(255) - MEAN) / STD)
    levels = (pixels[0].permute(1, 2, 0).numpy() * STD + MEAN) * 255
    assert_bicubic(levels, image, 448)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_segmenter_sees_bytes_as_they_are(height: int, width: int):
    image = photo(height, width)
    pixels = segmenter_image(image, 1024)
    assert pixels.shape == (3, 1024, 1024) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    default_filter = np.asarray(Image.fromarray(image).resize((1024, 1024)))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), default_filter)
    assert_bicubic(default_filter, image, 1024)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("grid", [16, 4])
def test_prompt_masks_both_ways(height: int, width: int, grid: int):
    masks = np.zeros((3, height, width), np.uint8)
    masks[0] = 1
    masks[1, height // 3 :, : (width + 1) // 2] = 1
    masks[2] = np.random.default_rng(1).random((height, width)) < 0.6
    masks[2, 0, 0] = 1
    rows, columns = np.arange(grid) * height // grid, np.arange(grid) * width // grid
    sampled = masks[:, rows][:, :, columns]
    tops, ends = rows, -(-(np.arange(grid) + 1) * height // grid)  # every pixel that the cell touches
    lefts, rights = columns, -(-(np.arange(grid) + 1) * width // grid)
    cell = np.ndindex(grid, grid)
    spans = [(slice(tops[i], ends[i]), slice(lefts[j], rights[j])) for i, j in cell]
    shares = np.array([[mask[span].mean() for span in spans] for mask in masks]).reshape(3, grid, grid)
    for pool, expected in (("nearest", sampled), ("area", shares > 0.5)):
        cells, small = prompt_masks(masks, pool, grid)
        assert cells.dtype == torch.uint8 and cells.shape == (3, grid, grid)
        filled = expected.any(axis=(1, 2))
        np.testing.assert_array_equal(cells.numpy()[filled], expected[filled])
        assert small == (~filled).sum() and (cells.flatten(1).sum(1) > 0).all()


def test_a_region_too_small_for_a_cell_gets_the_one_that_it_covers_most():
    masks = np.zeros((2, 160, 160), np.uint8)
    masks[0, 33:36, 101:105] = 1  # between the sampled pixels, in cell (3, 10)
    masks[1, :80] = 1
    for pool in ("nearest", "area"):
        cells, small = prompt_masks(masks, pool, 16)
        assert small == 1
        assert cells[0].nonzero().tolist() == [[3, 10]]
        assert cells[1].sum() == 128


def best_grid(height: int, width: int, size: int, least: int, most: int) -> tuple[int, int]:
    """InternVL's choice by its definition, in floats as there: nearest aspect ratio, then the area rule."""
    grids = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if least <= r * c <= most]
    nearest = min(abs(width / height - c / r) for r, c in grids)
    equal = sorted((r * c, r, c) for r, c in grids if abs(width / height - c / r) == nearest)
    filled = [grid for grid in equal if 2 * height * width > size * size * grid[0]]
    return (filled[-1] if filled else equal[0])[1:]


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (448, 448, (1, 1)),
        (634, 634, (2, 2)),  # more than half of 2 × 2 tiles
        (633, 633, (1, 1)),
        (951, 951, (3, 3)),
        (3, 5, (2, 3)),  # 3 × 5 tiles would be more than 12
        (20, 17, (4, 3)),  # .75 is nearer to .85 than 1 is
        (427, 640, (2, 3)),
        (640, 480, (4, 3)),
        (1080, 1920, (2, 4)),
        (100, 1200, (1, 12)),
        (5000, 10, (12, 1)),
        (600, 2400, (1, 4)),
        (900, 1800, (2, 4)),
    ],
)
def test_tiles_of_known_images(height: int, width: int, grid: tuple[int, int]):
    assert select_tiles(height, width, 448) == grid


@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (2, 12), (1, 1), (4, 9)])
def test_tiles_of_many_images(least: int, most: int):
    generator = np.random.default_rng(most)
    for height, width in [
        *generator.integers(1, 1300, (400, 2)).tolist(),
        *generator.integers(1, 40, (200, 2)).tolist(),
    ]:
        assert select_tiles(height, width, 56, least, most) == best_grid(height, width, 56, least, most)


@pytest.mark.parametrize(("height", "width", "tiles"), [(30, 95, (1, 3)), (95, 30, (3, 1)), (50, 76, (2, 3))])
def test_tiles_are_cut_row_by_row_from_the_resized_image(height: int, width: int, tiles: tuple[int, int]):
    image = photo(height, width)
    rows, columns = tiles
    whole = Image.fromarray(image).resize((columns * 28, rows * 28), Image.Resampling.BICUBIC)
    blocks = np.asarray(whole).reshape(rows, 28, columns, 28, 3).swapaxes(1, 2).reshape(-1, 28, 28, 3)
    found = vision_rows(image, 28, tiles)
    assert len(found) == rows * columns and np.array_equal([np.asarray(row) for row in found], blocks)
