"""Tilings against a search over every candidate, sizes against Molmo's own arithmetic, pixels against Pillow."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from PIL import Image

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.tiling import (
    Fit,
    aspect_distance,
    crop_sizes,
    fit,
    image_sizes_nearest,
    parse_size,
    resize_and_pad,
    resize_for_crops,
    select_tiling,
)


def _candidates(max_crops: int) -> np.ndarray:
    """Every (rows, columns) within max_crops, those of fewest crops first: int64 (candidates, 2)."""
    sides = range(1, max_crops + 1)
    tilings = [(rows, columns) for rows in sides for columns in sides if rows * columns <= max_crops]
    return np.array(sorted(tilings, key=lambda tiling: (tiling[0] * tiling[1], tiling[0])))


def _search(sizes: np.ndarray, window: int, max_crops: int) -> np.ndarray:
    """The specification's words, for positive sizes int64 (n, 2), in whole numbers: a scale times height · width."""
    tilings = _candidates(max_crops)
    height, width = sizes[:, :1], sizes[:, 1:]
    scale = np.minimum(tilings[:, 0] * window * width, tilings[:, 1] * window * height)
    enough = scale >= height * width
    never = np.iinfo(np.int64).max
    upscale = np.where(enough, scale, never).argmin(1)  # the first of several is that of fewest crops
    return tilings[np.where(enough.any(1), upscale, scale.argmax(1))]


def _molmo(height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
    """Molmo's `select_tiling` with its 32-bit floats."""
    tilings = _candidates(max_crops)
    scale = ((tilings * window).astype(np.float32) / np.array([height, width], np.float32)).min(1)
    if (scale < 1).all():
        index = scale.argmax()
    else:
        index = np.where(scale < 1, np.float32(10e9), scale).argmin()
    return tuple(tilings[index].tolist())


def _random_sizes(rng: np.random.Generator, count: int, window: int) -> np.ndarray:
    """Of photos, of multiples of the window and near them (ties), and of any aspect ratio; some negative."""
    kinds = [
        rng.integers(-200, 4000, (count, 2)),
        rng.integers(1, 20, (count, 2)) * window + rng.integers(-1, 2, (count, 2)),
        np.exp(rng.uniform(0, np.log(30000), (count, 2))).astype(np.int64),
        rng.integers(1, 40, (count, 1)) * rng.integers(1, 9, (count, 2)) * window // 4,
    ]
    return np.stack(kinds)[rng.integers(0, len(kinds), count), np.arange(count)]


def test_100_000_random_sizes_agree_with_a_search_over_all_candidates() -> None:
    rng = np.random.default_rng(5)
    cases = [(224, limit) for limit in (1, 2, 3, 5, 8, 12, 12, 24, 37, 100)] + [(7, 12), (336, 6)]
    downscaled = total = 0
    for window, max_crops in cases:
        sizes = _random_sizes(rng, 9000, window)
        fast = np.array([select_tiling(height, width, window, max_crops) for height, width in sizes.tolist()])
        positive = (sizes > 0).all(1)
        np.testing.assert_array_equal(fast[positive], _search(sizes[positive], window, max_crops))
        np.testing.assert_array_equal(fast[(sizes < 0).any(1)], 1)
        needed = -(-sizes[positive] // window)
        downscaled += (needed.prod(1) > max_crops).sum()
        total += len(sizes)
    assert total >= 100_000
    assert downscaled > 20_000  # neither branch is rare


def test_molmos_floats_choose_the_same() -> None:
    rng = np.random.default_rng(6)
    for height, width in rng.integers(1, 4000, (2000, 2)).tolist():
        assert select_tiling(height, width, 224, 12) == _molmo(height, width, 224, 12)


def test_specified_tilings() -> None:
    margin = MOLMO.margin
    assert select_tiling(425 - margin, 640 - margin, MOLMO.window, 12) == (2, 3)
    assert select_tiling(224, 224, 224, 12) == (1, 1)
    assert select_tiling(224, 225, 224, 12) == (1, 2)
    # one row and two have the same scale of 1/5 and 4/20: fewest crops
    assert select_tiling(5 * 224, 20 * 224, 224, 8) == (1, 4)
    assert type(select_tiling(np.int64(900), np.int64(900), 224, 4)[0]) is int  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("size", "tiling"), [((-1, 5000), (1, 1)), ((5000, -1), (1, 1)), ((-100, -100), (1, 1))])
def test_a_side_shorter_than_the_margins_is_one_crop(size, tiling) -> None:
    assert select_tiling(size[0], size[1], 224, 12) == tiling


def test_a_side_of_exactly_the_margins_is_bound_by_the_other_alone() -> None:
    assert select_tiling(0, 0, 224, 12) == (1, 1)
    assert select_tiling(0, 500, 224, 12) == (1, 3)
    assert select_tiling(0, 50_000, 224, 12) == (1, 12)
    assert select_tiling(50_000, 0, 224, 12) == (12, 1)


def test_no_crops_at_all_is_an_error() -> None:
    for limit in (0, -3):
        with pytest.raises(ConfigError, match=f"max_crops={limit}"):
            select_tiling(500, 500, 224, limit)
        with pytest.raises(ConfigError, match="at least 1"):
            select_tiling(500, 500, 224, 12, exact_crops=limit)
    with pytest.raises(ConfigError, match="aspect ratio"):
        select_tiling(500, -1, 224, 12, exact_crops=4)


@pytest.mark.parametrize(("max_crops", "microseconds"), [(12, 20), (100, 200)])
def test_select_tiling_is_fast(max_crops: int, microseconds: float) -> None:
    """The specified time, by the best of several runs in CPU time: a busy machine does not fail it."""
    sizes = np.random.default_rng(7).integers(-100, 4000, (1000, 2)).tolist()
    seconds = math.inf
    for _ in range(5):
        start = time.process_time()
        for height, width in sizes:
            select_tiling(height, width, 224, max_crops)
        seconds = min(seconds, time.process_time() - start)
    assert seconds / len(sizes) * 1e6 < microseconds


def test_exact_crops_take_the_nearest_aspect_ratio_of_the_image() -> None:
    rng = np.random.default_rng(8)
    for height, width, crops in rng.integers((1, 1, 1), (3000, 3000, 40), (3000, 3)).tolist():
        rows, columns = select_tiling(height, width, 224, 1, exact_crops=crops)
        assert rows * columns == crops
        distances = [abs(math.log(crops / r / r * height / width)) for r in range(1, crops + 1) if crops % r == 0]
        assert abs(math.log(columns / rows * height / width)) <= min(distances) + 1e-12


@pytest.mark.parametrize(
    ("size", "crops", "tiling"),
    [
        ((100, 100), 12, (3, 4)),  # 3×4 and 4×3 are as near and as square: fewer rows
        ((100, 100), 9, (3, 3)),
        ((300, 100), 12, (6, 2)),
        ((100, 200), 4, (2, 2)),  # 1×4 and 2×2 are both a factor of 2 away: the squarer one
        ((200, 100), 4, (2, 2)),
    ],
)
def test_ties_of_exact_crops(size, crops: int, tiling) -> None:
    assert select_tiling(size[0], size[1], 224, 12, exact_crops=crops) == tiling


def test_image_sizes_take_the_nearest_aspect_ratio_then_the_larger_area() -> None:
    sizes = [(560, 336), (336, 560), (560, 560), (784, 784)]
    assert image_sizes_nearest(1000, 600, sizes) == (560, 336)
    assert image_sizes_nearest(600, 1000, sizes) == (336, 560)
    assert image_sizes_nearest(500, 510, sizes) == (784, 784)
    # as far from 1:2 as from 2:1
    assert image_sizes_nearest(77, 77, [(100, 200), (400, 200), (300, 150)]) == (400, 200)
    with pytest.raises(ConfigError, match="list is empty"):
        image_sizes_nearest(10, 10, [])
    with pytest.raises(ConfigError, match="aspect ratio"):
        image_sizes_nearest(0, 10, sizes)


def test_aspect_distance_is_the_difference_of_logs() -> None:
    assert math.log(aspect_distance((3, 4), (480, 640))) == 0
    assert math.log(aspect_distance((200, 100), (100, 300))) == pytest.approx(math.log(3) - math.log(0.5))


@pytest.mark.parametrize("text", ["560", "560x", "560×336", "560x336x3", "0x336", "-5x5", "5.0x5", "", 560])
def test_a_size_of_another_form_is_an_error(text) -> None:
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH") as error:
        parse_size(text)
    assert repr(text) in str(error.value)


def test_parse_size_is_height_first() -> None:
    assert parse_size("560x336") == (560, 336)
    assert parse_size(" 336x560 ") == (336, 560)


@pytest.mark.parametrize("geometry", [MOLMO, Geometry(448, 14, (4, 4), 2), Geometry(56, 14, (0, 0), 1)])
def test_resize_for_crops_gives_a_canvas_of_exactly_these_crops(geometry: Geometry) -> None:
    rng = np.random.default_rng(9)
    for height, width, crops, more in rng.integers((1, 1, 1, 0), (3000, 3000, 40, 9), (500, 4)).tolist():
        canvas = resize_for_crops(height, width, crops, geometry)
        content_height, content_width = (side - geometry.margin for side in canvas)
        rows, columns = select_tiling(content_height, content_width, geometry.window, crops + more)
        assert rows * columns == crops
        assert geometry.canvas(rows, columns) == canvas
        wanted = math.log(width / height)
        others = [geometry.canvas(r, crops // r) for r in range(1, crops + 1) if crops % r == 0]
        assert abs(math.log(canvas[1] / canvas[0]) - wanted) <= 1e-12 + min(
            abs(math.log(other[1] / other[0]) - wanted) for other in others
        )


def test_resize_for_crops_prefers_squarer_canvases_then_fewer_rows() -> None:
    assert resize_for_crops(100, 100, 12) == (784, 1008)
    assert resize_for_crops(100, 100, 9) == (784, 784)
    assert resize_for_crops(1000, 300, 2) == (560, 336)


def test_the_table_of_crops_has_every_canvas() -> None:
    table = crop_sizes(12)
    assert list(table) == list(range(1, 13))
    assert table[1] == [(336, 336)]
    assert table[6] == [(336, 1456), (560, 784), (784, 560), (1456, 336)]
    assert sum(map(len, table.values())) == len(_candidates(12))
    with pytest.raises(ConfigError, match="max_crops=0"):
        crop_sizes(0)


def _molmo_size(height: int, width: int, canvas: tuple[int, int], dtype: type) -> tuple[int, int]:
    """Molmo's scaled size, in floats of this type."""
    scale_y = np.array(canvas[0], dtype) / np.array(height, dtype)
    scale_x = np.array(canvas[1], dtype) / np.array(width, dtype)
    scale = min(scale_x, scale_y)
    return int(np.array(height, dtype) * scale), int(np.array(width, dtype) * scale)


def _canvas(height: int, width: int) -> tuple[int, int]:
    return MOLMO.canvas(*select_tiling(height - MOLMO.margin, width - MOLMO.margin, MOLMO.window, 12))


def test_fit_computes_in_32_bits_as_molmo_does() -> None:
    sizes = np.random.default_rng(10).integers(100, 3000, (20_000, 2)).tolist()
    other_size = 0
    for height, width in sizes:
        canvas = _canvas(height, width)
        place = fit(height, width, canvas)
        assert (place.height, place.width) == _molmo_size(height, width, canvas, np.float32)
        assert place.top == (canvas[0] - place.height) // 2 and place.left == (canvas[1] - place.width) // 2
        assert 0 < place.height <= canvas[0] and 0 < place.width <= canvas[1]
        assert place.height >= canvas[0] - 1 or place.width >= canvas[1] - 1
        other_size += (place.height, place.width) != _molmo_size(height, width, canvas, np.float64)
    # the specification's 12.7 % are of images whose sizes it does not name; of these it is 12.9 %
    assert other_size / len(sizes) == pytest.approx(0.127, abs=0.01)


def test_fit_is_a_key_of_whole_numbers() -> None:
    assert fit(425, 640, (560, 784)) == Fit(520, 784, 20, 0)
    assert {fit(425, 640, (560, 784)): 1}[Fit(520, 784, 20, 0)] == 1
    assert all(type(value) is int for value in vars(fit(425, 640, np.array([560, 784]))).values())  # pyright: ignore
    assert fit(336, 336, (336, 336)) == Fit(336, 336, 0, 0)
    assert fit(101, 336, (336, 336)) == Fit(101, 336, 117, 0)  # 118 px below
    assert fit(2, 30_000, (336, 336)) == Fit(1, 336, 167, 0)  # 0.02 px would be none at all


@pytest.mark.parametrize("size", [(90, 120), (425, 640), (33, 500)])
def test_resize_and_pad_is_pillows_bilinear_on_black(size: tuple[int, int]) -> None:
    y, x = np.mgrid[: size[0], : size[1]]
    noise = np.random.default_rng(11).integers(0, 60, size)
    image = np.stack([x * 190 // size[1], y * 190 // size[0], (x + y) % 160], axis=-1) + noise[..., None]
    image = image.astype(np.uint8)
    image.flags.writeable = False
    canvas = _canvas(*size)

    padded, place = resize_and_pad(image, canvas)
    assert padded.dtype == np.uint8 and padded.shape == (*canvas, 3) and padded.flags.c_contiguous
    assert place == fit(*size, canvas)
    bilinear = Image.fromarray(image).resize((place.width, place.height), Image.Resampling.BILINEAR)
    inside = (slice(place.top, place.top + place.height), slice(place.left, place.left + place.width))
    assert np.abs(padded[inside].astype(int) - np.asarray(bilinear)).max() <= 2
    padded[inside] = 0
    assert not padded.any()


def test_an_image_of_its_size_is_copied() -> None:
    image = np.random.default_rng(12).integers(0, 255, (336, 200, 3), dtype=np.uint8)
    padded, place = resize_and_pad(image, (336, 336))
    assert place == Fit(336, 200, 0, 68)
    np.testing.assert_array_equal(padded[:, 68:268], image)
    mirrored, _ = resize_and_pad(image[::-1, ::-1], (112, 112))
    assert mirrored.shape == (112, 112, 3)
    np.testing.assert_array_equal(resize_and_pad(image[::-1, ::-1].copy(), (112, 112))[0], mirrored)
