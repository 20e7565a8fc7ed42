"""Views are parts of the canvas, their boxes lie where the pixels came from, and their costs are the geometry's."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.tiling import Fit, resize_and_pad
from maskcap.vision_tokens.views import (
    boxes_on_image,
    coverage_shares,
    crop_boxes,
    every_tiling,
    make_views,
    prompt_length,
    views_facts,
)

SMALL = Geometry(crop=56, patch=7, margins=(2, 2), pool=2)  # 8 patches, window 28 px, 16 tokens


def image(height: int, width: int) -> np.ndarray:
    """Red is the row, green the column: a pixel says where it is from."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(height)[:, None], np.arange(width)[None]
    return pixels


def test_crops_are_windows_of_the_canvas():
    views = make_views(image(84, 112), TilingRule(SMALL))
    assert views.tiling == (2, 3) and views.canvas.shape == (84, 112, 3)
    assert views.fit == Fit(84, 112, 0, 0) and np.array_equal(views.canvas, views.image)  # it fits as it is
    for number, crop in enumerate(views.crops):
        top, left = 28 * (number // 3), 28 * (number % 3)
        assert crop.shape == (56, 56, 3) and np.array_equal(crop, views.image[top : top + 56, left : left + 56])
    assert views.global_view is not None and views.global_view.shape == (56, 56, 3)
    assert make_views(image(84, 112), TilingRule(SMALL), global_view=False).global_view is None


def test_boxes_on_the_image_are_where_the_pixels_came_from():
    picture = image(100, 200)
    views = make_views(picture, TilingRule(SMALL, exact_crops=6))
    canvas, place = resize_and_pad(picture, SMALL.canvas(*views.tiling))
    assert np.array_equal(views.canvas, canvas) and place.top > 0
    for crop, (top, left, bottom, right) in zip(views.crops, views.image_boxes, strict=True):
        seen = crop[crop[..., 2:].squeeze() == 0].reshape(-1, 3)
        inside = crop[1:-1, 1:-1]
        rows, columns = inside[..., 0][inside[..., 1] > 0], inside[..., 1][inside[..., 1] > 0]
        assert len(seen) and rows.min() >= top - 2 and rows.max() <= bottom + 2
        assert columns.min() >= left - 3 and columns.max() <= right + 3
        assert columns.max() == pytest.approx(right, abs=6) and columns.min() == pytest.approx(left, abs=6)
    beyond = boxes_on_image(crop_boxes(*views.tiling, SMALL), place, 100, 200, cut=False)
    assert beyond[:, 0].min() < 0 and views.image_boxes[:, 0].min() == 0
    whole = np.array([[place.top, place.left, place.top + place.height, place.left + place.width]])
    assert boxes_on_image(whole, place, 100, 200) == pytest.approx(np.array([[0, 0, 100, 200]]))


def test_coverage_shares_are_those_of_painted_crops():
    for tiling in ((1, 1), (1, 2), (2, 3), (3, 3)):
        painted = np.zeros(MOLMO.canvas(*tiling), int)
        for top, left, bottom, right in crop_boxes(*tiling, MOLMO):
            painted[top:bottom, left:right] += 1
        expected = {int(count): (painted == count).mean() for count in np.unique(painted)}
        assert coverage_shares(*tiling, MOLMO) == pytest.approx(expected) and 0 not in expected


def test_facts_of_the_specification():
    facts = views_facts(make_views(image(200, 250), TilingRule(MOLMO, exact_crops=9)), "molmo")
    assert (facts["tiling"], facts["slots"], facts["kept"], facts["canvas"]) == ([3, 3], 1440, 928, [784, 784])
    assert facts["sequence_length"] == 160 + 28 * 29
    assert facts["overlap"]["overlap"] == pytest.approx(0.49, abs=5e-4)
    assert [crop["file"] for crop in facts["crops"]][:4] == [
        "crops/01_r0_c0.png", "crops/02_r0_c1.png", "crops/03_r0_c2.png", "crops/04_r1_c0.png",
    ]  # fmt: skip
    assert facts["crops"][5]["on_canvas"] == [224, 448, 560, 784]
    assert prompt_length(3, 3, MOLMO, "internvl") == 930 and prompt_length(3, 3, MOLMO, "internvl", False) == 786


def test_every_tiling_once():
    tilings = every_tiling(12, MOLMO)
    shapes = [(each["rows"], each["columns"]) for each in tilings]
    assert sorted(shapes) == sorted((r, c) for r in range(1, 13) for c in range(1, 13) if r * c <= 12)
    assert [each["crops"] for each in tilings] == sorted(each["crops"] for each in tilings)
    assert tilings[0]["depth"] is None and tilings[0]["wasted"] == 0
