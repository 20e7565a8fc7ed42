"""Where cells stand: the finest level against the stock models' own positions, coarse ones against hand values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from maskcap.models.vlm.cell_positions import mrope_positions, vision_positions, windows

GRIDS = [(1, 1), (1, 7), (5, 3), (8, 8), (9, 13)]


def finest(rows: int, columns: int) -> np.ndarray:
    """All cells of level 0, raster order, int64 (rows · columns, 3)."""
    return np.array([(row, column, 0) for row in range(rows) for column in range(columns)])


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_finest_cells_stand_where_the_stock_tower_puts_them(rows: int, columns: int) -> None:
    stock = get_vision_position_ids(torch.tensor([[1, 2 * rows, 2 * columns]]), 2)
    found = vision_positions(finest(rows, columns))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stock.numpy())


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_finest_cells_have_the_stock_models_text_positions(
    rows: int, columns: int, qwen2_vl: Qwen2VLForConditionalGeneration
) -> None:
    slots = rows * columns
    types = torch.tensor([[0, 0] + [1] * slots + [0]])
    stock, _ = qwen2_vl.model.get_rope_index(types, types, torch.tensor([[1, 2 * rows, 2 * columns]]))
    np.testing.assert_array_equal(2 + mrope_positions(finest(rows, columns)), stock[:, 0, 2:-1].numpy())


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_finest_cells_fall_into_the_stock_windows(rows: int, columns: int) -> None:
    index, ends = get_vision_window_index(torch.tensor([[1, 2 * rows, 2 * columns]]), 2, 112, 14)
    order, patches = windows(finest(rows, columns), 4)
    np.testing.assert_array_equal(order, index.numpy())
    np.testing.assert_array_equal(np.cumsum(patches), ends[1:].numpy())


def test_a_coarse_cells_patches_look_at_the_centres_of_what_they_average() -> None:
    cells = np.array([(0, 2, 1), (4, 0, 2)])
    expected = [(0.5, 4.5), (0.5, 6.5), (2.5, 4.5), (2.5, 6.5), (9.5, 1.5), (9.5, 5.5), (13.5, 1.5), (13.5, 5.5)]
    np.testing.assert_array_equal(vision_positions(cells), np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_patch_position_is_the_mean_of_the_patches_under_it(level: int) -> None:
    side, row, column = 2**level, 8, 16
    yx = np.stack(np.meshgrid(np.arange(2 * row, 2 * (row + side)), np.arange(2 * column, 2 * (column + side))), -1)
    means = yx.transpose(1, 0, 2).reshape(2, side, 2, side, 2).mean(axis=(1, 3)).reshape(4, 2)
    np.testing.assert_array_equal(vision_positions(np.array([(row, column, level)])), means.astype(np.float32))


def test_a_coarse_cell_stands_at_its_middle_block_rounded_down() -> None:
    cells = np.array([(2, 4, 0), (2, 4, 1), (4, 8, 2), (8, 16, 3)])
    np.testing.assert_array_equal(mrope_positions(cells), [[0, 0, 0, 0], [2, 2, 5, 11], [4, 4, 9, 19]])


def test_windows_of_mixed_cells() -> None:
    # 4 × 6 blocks, windows of 4: a cell of 4 blocks on the left; on the right one of 2 blocks, then four of 1
    cells = np.array([(0, 0, 2), (0, 4, 1), (2, 4, 0), (2, 5, 0), (3, 4, 0), (3, 5, 0)])
    order, patches = windows(cells, 4)
    assert order.tolist() == [0, 1, 2, 3, 4, 5] and patches.tolist() == [4, 20]
    # raster order of the corners interleaves the windows: 2 × 8 blocks, the left half of 1 × 1, the right of 2 × 2
    cells = np.array([(0, c, 0) for c in range(4)] + [(0, 4, 1), (0, 6, 1)] + [(1, c, 0) for c in range(4)])
    order, patches = windows(cells, 4)
    assert order.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 4, 5] and patches.tolist() == [32, 8]
