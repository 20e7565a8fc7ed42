"""Maps of tokens' numbers, against torch's own resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskcap.models.token_maps import token_maps
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import cell_map, grid_layout, patches_layout, raster, tiling_layout
from maskcap.vision_tokens.patch_selection import cells_of
from maskcap.vision_tokens.tiling import fit

LEVELS = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]])
CPU = torch.device("cpu")


def resized(grid: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(grid[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("side", [2, 8, 32])
def test_maps_of_grids_are_resized_grids(side: int) -> None:
    layouts = [grid_layout(4, 4), grid_layout(2, 7), patches_layout(cells_of(LEVELS), 4, 5), grid_layout(1, 3)]
    values = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    of_images = torch.tensor([0, 1, 2, 3, 2])
    found = token_maps(layouts, side, CPU).draw(values, of_images)
    for region, image in enumerate(of_images.tolist()):
        numbers = cell_map(layouts[image].cells[0])
        torch.testing.assert_close(found[region], resized(values[region][torch.from_numpy(numbers)], side))


def test_a_cell_map_names_the_cell_over_each_base_cell() -> None:
    assert cell_map(cells_of(LEVELS)).tolist() == [
        [0, 0, 1, 2, 3],
        [0, 0, 4, 5, 6],
        [7, 8, 9, 9, 10],
        [11, 12, 9, 9, 13],
    ]
    assert cell_map(grid_layout(2, 3).cells[0]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_maps_of_crops_take_the_closest_token() -> None:
    geometry = Geometry(crop=32, patch=4, margins=(2, 2), pool=2)
    layouts = [tiling_layout(1, n, fit(48, 48 * n, geometry.canvas(1, n)), geometry) for n in (1, 2)]
    values = torch.arange(50.0)[None].expand(2, -1)
    found = token_maps(layouts, 8, CPU).draw(values, torch.tensor([1, 0]))
    assert torch.equal(found, torch.stack([raster(layouts[1], 8), raster(layouts[0], 8)]).float())


def test_gradients_reach_every_token_that_is_seen() -> None:
    values = torch.zeros(1, 14, requires_grad=True)
    token_maps([patches_layout(cells_of(LEVELS), 4, 5)], 16, CPU).draw(values, torch.tensor([0])).sum().backward()
    assert values.grad is not None and (values.grad > 0).all() and values.grad.sum().item() == pytest.approx(256)
