"""TokenLayout of one view, of crops, and of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import grid_layout, patches_layout, raster, tiling_layout
from maskcap.vision_tokens.patch_selection import cells_of
from maskcap.vision_tokens.tiling import fit


def test_boxes_tile_the_image_in_raster_order() -> None:
    layout = grid_layout(2, 4)
    assert len(layout) == 8 and layout.grid == (2, 4)
    assert layout.boxes[0].tolist() == [0, 0, 0.5, 0.25]
    assert layout.boxes[5].tolist() == [0.5, 0.25, 1, 0.5]
    heights, widths = layout.boxes[:, 2] - layout.boxes[:, 0], layout.boxes[:, 3] - layout.boxes[:, 1]
    assert (heights * widths).sum().item() == 1


GEOMETRY = Geometry(crop=32, patch=4, margins=(2, 2), pool=2)


@pytest.mark.parametrize("rows, columns, height, width", [(1, 1, 50, 70), (2, 3, 64, 96), (3, 2, 700, 333)])
def test_the_crops_tokens_tile_the_image(rows: int, columns: int, height: int, width: int) -> None:
    layout = tiling_layout(rows, columns, fit(height, width, GEOMETRY.canvas(rows, columns)), GEOMETRY)
    assert len(layout) == GEOMETRY.kept(rows, columns) and layout.grid is None
    assert layout.tiling == (rows, columns) and layout.views == rows * columns + 1
    boxes = layout.boxes[layout.crop > 0].double()
    assert len(boxes) == GEOMETRY.kept(rows, columns, global_view=False)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert area.sum().item() == pytest.approx(1) and (boxes[:, :2].min(), boxes[:, 2:].max()) == (0, 1)
    torch.testing.assert_close(layout.boxes[layout.crop == 0], grid_layout(4, 4).boxes)
    assert layout.crop.unique().tolist() == list(range(rows * columns + 1))


def test_a_token_is_from_the_crop_whose_window_it_lies_in() -> None:
    layout = tiling_layout(2, 2, fit(48, 48, GEOMETRY.canvas(2, 2)), GEOMETRY)
    # 48 px: 6 tokens of 8 px a side; a crop has 4, of which the inner one at the seam is its neighbour's
    crop = layout.crop[layout.crop > 0].view(6, 6)
    assert crop.tolist() == [[1, 1, 1, 2, 2, 2]] * 3 + [[3, 3, 3, 4, 4, 4]] * 3


def test_one_crop_that_the_image_fills_is_a_single_view() -> None:
    layout = tiling_layout(1, 1, fit(100, 100, GEOMETRY.canvas(1, 1)), GEOMETRY, global_view=False)
    assert layout.grid == (4, 4) and layout.views == 1
    torch.testing.assert_close(layout.boxes, grid_layout(4, 4).boxes)
    assert tiling_layout(1, 1, fit(50, 100, (32, 32)), GEOMETRY, global_view=False).grid is None  # padded


@pytest.mark.parametrize("side", [1, 7, 24])
def test_a_raster_holds_the_token_that_sees_each_place_most_closely(side: int) -> None:
    layout = tiling_layout(2, 3, fit(60, 80, GEOMETRY.canvas(2, 3)), GEOMETRY)
    cells = raster(layout, side)
    boxes = layout.boxes.double()
    for row in range(side):
        for column in range(side):
            y, x = (row + 0.5) / side, (column + 0.5) / side
            around = (boxes[:, 0] <= y) & (y < boxes[:, 2]) & (boxes[:, 1] <= x) & (x < boxes[:, 3])
            area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).where(around, torch.inf)
            assert cells[row, column] == area.argmin()


LEVELS = np.array(
    [[2, 2, 2, 2, 0], [2, 2, 2, 2, 0], [2, 2, 2, 2, 0], [2, 2, 2, 2, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
)


def test_patches_are_rectangles_of_their_levels_side() -> None:
    layout = patches_layout(cells_of(LEVELS), 6, 5)
    assert len(layout) == 1 + 4 + 1 + 6 and layout.grid is None and layout.views == 1
    expected = [[0, 0, 4, 4], [0, 4, 1, 5], [1, 4, 2, 5], [2, 4, 3, 5], [3, 4, 4, 5], [4, 0, 6, 2], [4, 2, 5, 3]]
    torch.testing.assert_close(layout.boxes[:7], torch.tensor(expected) / torch.tensor([6.0, 5, 6, 5]))
    areas = (layout.boxes[:, 2:] - layout.boxes[:, :2]).double().prod(dim=1)
    assert areas.sum().item() == pytest.approx(1, abs=1e-6)
    # each place of a raster of the base cells' size is seen by the token whose cell it lies in
    seen = raster(patches_layout(cells_of(np.where(LEVELS[:5] == 1, 0, LEVELS[:5])), 5, 5), 5)
    assert seen[:4, :4].unique().tolist() == [0] and seen[:, 4].tolist() == [1, 2, 3, 4, len(seen.unique()) - 1]


def test_fine_patches_are_the_layout_of_no_selection() -> None:
    assert patches_layout(cells_of(np.zeros((3, 4), dtype=int)), 3, 4) is grid_layout(3, 4)


def test_cells_say_where_every_token_stands() -> None:
    assert grid_layout(2, 3).cells[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0]]
    crops = tiling_layout(1, 2, fit(48, 64, GEOMETRY.canvas(1, 2)), GEOMETRY)
    assert [len(part) for part in crops.cells] == [16, 24] and crops.cells[1].max(axis=0).tolist() == [3, 5, 0]
