"""Tokens that stand for a region, by their rectangles: against pooling on a grid, and pixel by pixel elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcap.models.region_prompt import Pool, coverage, fill_empty, pool_masks
from maskcap.models.token_coverage import fill_unseen, select_tokens, token_coverage
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import grid_layout, tiling_layout
from maskcap.vision_tokens.tiling import fit, select_tiling


def random_masks(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rectangles with holes, from a pixel to all of the image."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.float32)
    for mask in masks:
        (y, x), (h, w) = rng.integers(0, [height, width]), rng.integers(1, [height, width])
        mask[y : y + h, x : x + w] = rng.random(mask[y : y + h, x : x + w].shape) < 0.8
        mask[y, x] = 1
    return torch.from_numpy(masks)


@pytest.mark.parametrize("mode", ["nearest", "area", "any"])
@pytest.mark.parametrize("height, width", [(64, 64), (96, 160), (100, 75)])
def test_on_a_grid_rectangles_select_what_pooling_selects(mode: Pool, height: int, width: int) -> None:
    masks = random_masks(40, height, width)
    boxes = grid_layout(16, 16).boxes.expand(40, -1, -1)
    selected = select_tokens(masks, boxes, mode)
    assert torch.equal(selected, pool_masks(masks, 16, mode).flatten(1))
    torch.testing.assert_close(token_coverage(masks, boxes), coverage(masks, 16))


def test_on_a_grid_an_empty_selection_is_filled_alike() -> None:
    masks = torch.zeros(60, 64, 64)
    rng = np.random.default_rng(0)
    for mask in masks:  # smaller than a cell, within one
        (row, column), (y, x) = rng.integers(0, 16, 2), rng.integers(1, 3, 2)
        mask[row * 4 + y : row * 4 + y + 2, column * 4 + x] = 1
    boxes = grid_layout(16, 16).boxes.expand(60, -1, -1)
    filled, small = fill_unseen(select_tokens(masks, boxes), masks, boxes)
    expected, count = fill_empty(pool_masks(masks, 16), masks)
    assert torch.equal(filled, expected.flatten(1)) and small == count == 60


def test_on_any_layout_each_rectangle_is_asked() -> None:
    geometry = Geometry(crop=32, patch=4, margins=(2, 2), pool=2)
    layout = tiling_layout(2, 3, fit(90, 140, geometry.canvas(2, 3)), geometry)
    masks = random_masks(12, 90, 140)
    boxes = layout.boxes.expand(12, -1, -1)
    covered = token_coverage(masks, boxes)
    nearest, area, whole = (select_tokens(masks, boxes, mode) for mode in ("nearest", "area", "any"))
    for t, box in enumerate(layout.boxes.double().numpy()):
        if box[2] <= box[0]:
            assert not nearest[:, t].any() and not area[:, t].any() and not whole[:, t].any()
            continue
        top, left = int(box[0] * 90 + 1e-3), int(box[1] * 140 + 1e-3)
        bottom, right = int(np.ceil(box[2] * 90 - 1e-3)), int(np.ceil(box[3] * 140 - 1e-3))
        inside = masks[:, top:bottom, left:right].flatten(1)
        torch.testing.assert_close(covered[:, t], inside.mean(1))
        assert torch.equal(nearest[:, t], masks[:, top, left] > 0)
        assert torch.equal(area[:, t], inside.mean(1) > 0.5) and torch.equal(whole[:, t], inside.amax(1) > 0)


def test_the_most_covered_token_is_the_smallest_of_those_alike() -> None:
    geometry = Geometry(crop=32, patch=4, margins=(2, 2), pool=2)
    layout = tiling_layout(2, 2, fit(96, 96, geometry.canvas(2, 2)), geometry)
    masks = torch.zeros(2, 96, 96)
    masks[0, 50, 50] = 1  # inside one token of the crops and one of the global view
    masks[1, 62:66, 50] = 1  # across two tokens of the crops, inside one of the global view
    boxes = layout.boxes.expand(2, -1, -1)
    nothing = torch.zeros(2, len(layout), dtype=torch.bool)
    filled, small = fill_unseen(nothing, masks, boxes)
    assert small == 2 and filled.sum(1).tolist() == [1, 1]
    fine, coarse = filled.int().argmax(1).tolist()
    assert layout.crop[fine] > 0 and layout.crop[coarse] == 0
    top, left, bottom, right = (layout.boxes[fine] * 96).tolist()
    assert top <= 50 < bottom and left <= 50 < right


def test_small_regions_get_more_tokens_from_crops() -> None:
    """1000 regions of 60 × 60 px on an image of 1024, InternVL's view against up to 12 crops of it."""
    geometry = Geometry(crop=448)
    tiling = select_tiling(1024 - geometry.margin, 1024 - geometry.margin, geometry.window, 12)
    layout = tiling_layout(*tiling, fit(1024, 1024, geometry.canvas(*tiling)), geometry)
    tokens, fallbacks = {"single": 0, "tiling": 0}, {"single": 0, "tiling": 0}
    for corners in np.random.default_rng(0).integers(0, 1024 - 60 + 1, (100, 10, 2)):
        masks = torch.zeros(10, 1024, 1024)
        for mask, (y, x) in zip(masks, corners, strict=True):
            mask[y : y + 60, x : x + 60] = 1
        for name, boxes in (("single", grid_layout(16, 16).boxes), ("tiling", layout.boxes)):
            selected = select_tokens(masks, boxes.expand(10, -1, -1))
            empty = ~selected.any(1)
            filled, small = fill_unseen(selected[empty], masks[empty], boxes.expand(int(empty.sum()), -1, -1))
            tokens[name] += int(selected.sum() + filled.sum())
            fallbacks[name] += int(small)
    assert tiling == (3, 3) and tokens["tiling"] >= 3.5 * tokens["single"]
    # a cell of 64 px has its corner outside a square of 60 px with probability 1 − (60/64)²
    assert fallbacks["single"] / 1000 == pytest.approx(1 - (60 / 64) ** 2, abs=0.04) and fallbacks["tiling"] == 0
