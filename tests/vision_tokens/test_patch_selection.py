"""Partitions: exactness, the order of splits against a greedy search, thresholds, and torch against NumPy."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
import torch

from maskcap.errors import ConfigError
from maskcap.vision_tokens.entropy import entropy_maps, entropy_pyramid
from maskcap.vision_tokens.patch_selection import (
    DEFAULT_THRESHOLDS,
    cells_of,
    fewest_tokens,
    level_maps,
    select_patches,
)


def _pyramid(rng: np.random.Generator, rows: int, columns: int, levels: int, ties: bool = False) -> list[np.ndarray]:
    """Entropies drawn at random, independent of each other; with ties they are multiples of 1.5 bits."""
    shapes = [(rows >> level, columns >> level) for level in range(levels)]
    if ties:
        return [rng.integers(0, 5, shape).astype(np.float32) * 1.5 for shape in shapes]
    return [rng.uniform(0, 8, shape).astype(np.float32) for shape in shapes]


def _grid(rng: np.random.Generator) -> tuple[int, int, int]:
    """Rows, columns and levels: odd, even, of one row or column, small and not so small."""
    rows, columns = rng.integers(1, rng.choice([4, 9, 18]), 2).tolist()
    return (1 if rng.random() < 0.1 else rows), (1 if rng.random() < 0.1 else columns), int(rng.integers(1, 5))


def _settings(rng: np.random.Generator, levels: int) -> dict[str, Any]:
    """One of the three methods' settings."""
    thresholds = rng.uniform(0, 8, levels - 1).tolist()
    alpha = float(rng.choice([0.2, 0.3, 0.5, rng.uniform(0.001, 1)]))
    methods: list[dict[str, Any]] = [
        {"method": "v1", "thresholds": None if levels <= 3 and rng.random() < 0.5 else thresholds},
        {"method": "v2", "alpha": float(rng.uniform(0, 2.5))},
        {"method": "budget", "alpha": alpha},
    ]
    return methods[rng.integers(3)]


def _assert_exact(cells: np.ndarray, rows: int, columns: int, levels: int) -> None:
    covered = np.zeros((rows, columns), dtype=np.int64)
    for row, column, level in cells.tolist():
        side = 1 << level
        assert row % side == column % side == 0 and 0 <= level < levels
        assert 0 <= row <= rows - side and 0 <= column <= columns - side
        covered[row : row + side, column : column + side] += 1
    assert (covered == 1).all()
    assert (np.diff(cells[:, 0] * columns + cells[:, 1]) > 0).all()
    assert cells.dtype == np.int64
    assert len(cells) >= fewest_tokens(rows, columns, levels) and (rows * columns - len(cells)) % 3 == 0


def test_10_000_random_maps_give_exact_partitions() -> None:
    rng = np.random.default_rng(0)
    mixed = 0
    for _ in range(10_000):
        rows, columns, levels = _grid(rng)
        pyramid = _pyramid(rng, rows, columns, levels, ties=rng.random() < 0.3)
        settings = _settings(rng, levels)
        selection = select_patches(pyramid, **settings)
        _assert_exact(selection.cells, rows, columns, levels)
        info = selection.info
        assert info["actual"] == len(selection.cells)
        assert info["base_tokens"] == fewest_tokens(rows, columns, levels)
        if settings["method"] == "budget":
            assert info["actual"] <= max(info["budget"], info["base_tokens"])
        mixed += len(np.unique(selection.cells[:, 2])) > 1
    assert mixed > 3000


def _greedy(pyramid: list[np.ndarray], splits: int) -> set[tuple[int, int, int]]:
    """The cells (row, column, level) after splitting the most important one again and again, one by one."""

    def importance(row: int, column: int, level: int) -> float:
        children = [(2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)] if level else []
        return max([float(pyramid[level][row, column]), *(importance(*child, level - 1) for child in children)])

    def entry(row: int, column: int, level: int) -> tuple[float, int, int, int]:
        return -importance(row, column, level), -level, row, column

    rows, columns = pyramid[0].shape
    queue, done = [], set()
    for level, bits in enumerate(pyramid):
        above = pyramid[level + 1].shape if level + 1 < len(pyramid) else (0, 0)
        for row, column in np.ndindex(bits.shape):
            if row // 2 >= above[0] or column // 2 >= above[1]:  # in no larger cell
                if level:
                    heapq.heappush(queue, entry(row, column, level))
                else:
                    done.add((row, column, 0))
    for _ in range(splits):
        _, level, row, column = heapq.heappop(queue)
        for child in ((2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)):
            if level == -1:
                done.add((*child, 0))
            else:
                heapq.heappush(queue, entry(*child, -level - 1))
    return done | {(row << -level, column << -level, -level) for _, level, row, column in queue}


@pytest.mark.parametrize("ties", [False, True])
def test_a_budget_is_spent_as_a_greedy_search_spends_it(ties: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        rows, columns, levels = _grid(rng)
        pyramid = _pyramid(rng, rows, columns, levels, ties)
        selection = select_patches(pyramid, "budget", float(rng.uniform(0.05, 1)))
        assert {tuple(cell) for cell in selection.cells.tolist()} == _greedy(pyramid, selection.info["k"])


def test_ties_go_to_the_coarser_cell_and_then_to_raster_order() -> None:
    flat = [np.full((8 >> level, 8 >> level), 2.0, dtype=np.float32) for level in range(3)]
    for k, expected in ((1, [2]), (3, [2, 2, 2]), (5, [2, 2, 2, 2, 1])):
        selection = select_patches(flat, "budget", (4 + 3 * k) / 64)
        assert selection.info == {"base_tokens": 4, "budget": 4 + 3 * k, "k": k, "actual": 4 + 3 * k}
        assert np.bincount(selection.cells[:, 2], minlength=3)[2] == 4 - expected.count(2)
    assert select_patches(flat, "budget", 7 / 64).cells.tolist() == [
        [0, 0, 1],
        [0, 2, 1],
        [0, 4, 2],
        [2, 0, 1],
        [2, 2, 1],
        [4, 0, 2],
        [4, 4, 2],
    ]


def test_a_detail_that_only_a_small_cell_shows_is_split_down_to() -> None:
    pyramid = [np.zeros((8 >> level, 8 >> level), dtype=np.float32) for level in range(3)]
    pyramid[0][7, 0] = 5
    cells = select_patches(pyramid, "budget", 10 / 64).cells.tolist()
    assert [cell for cell in cells if cell[2] == 0] == [[6, 0, 0], [6, 1, 0], [7, 0, 0], [7, 1, 0]]


@pytest.mark.parametrize("alpha", [1, 1.0])
def test_a_budget_of_all_cells_selects_nothing(alpha: float) -> None:
    rng = np.random.default_rng(2)
    for rows, columns, levels in ((14, 14, 3), (1, 5, 3), (7, 3, 2), (8, 8, 1)):
        selection = select_patches(_pyramid(rng, rows, columns, levels), "budget", alpha)
        expected = [[row, column, 0] for row in range(rows) for column in range(columns)]
        assert selection.cells.tolist() == expected
        assert selection.info["actual"] == selection.info["budget"] == rows * columns


def test_a_smaller_budgets_splits_are_among_a_larger_ones() -> None:
    rng = np.random.default_rng(3)
    pyramid = _pyramid(rng, 14, 14, 3, ties=True)
    before = np.full((14, 14), 2)
    for alpha in np.linspace(0.1, 1, 40).tolist():
        levels = np.zeros((14, 14), dtype=np.int64)
        for row, column, level in select_patches(pyramid, "budget", alpha).cells.tolist():
            levels[row : row + (1 << level), column : column + (1 << level)] = level
        assert (levels <= before).all()
        before = levels
    assert not before.any()


def test_v1_takes_the_largest_cell_below_its_threshold_whatever_its_children_say() -> None:
    fine = np.full((5, 4), 9, dtype=np.float32)
    middle = np.array([[9, 9], [2.5, 3]], dtype=np.float32)
    assert DEFAULT_THRESHOLDS == (3, 2)
    coarse = select_patches([fine, middle, np.array([[1.5]], dtype=np.float32)], "v1")
    assert coarse.cells.tolist() == [[0, 0, 2], *([4, column, 0] for column in range(4))]
    assert coarse.info == {"base_tokens": 5, "actual": 5}
    # 2 bits are not below 2, nor 3 below 3
    split = select_patches([fine, middle, np.array([[2]], dtype=np.float32)], "v1")
    assert [cell for cell in split.cells.tolist() if cell[2]] == [[2, 0, 1]]
    assert select_patches([fine, middle], "v1", thresholds=[9.5]).info["actual"] == 8
    assert select_patches([fine, middle], "v1", alpha=-1.0).info["actual"] == 17


def test_v2_has_one_threshold_from_the_largest_cells() -> None:
    fine = np.full((8, 8), 9, dtype=np.float32)
    middle = np.array([[9, 9, 5, 6], [9, 9, 6, 6], [2, 9, 9, 9], [9, 9, 9, 9]], dtype=np.float32)
    large = np.array([[4, 6], [6, 8]], dtype=np.float32)
    selection = select_patches([fine, middle, large], "v2", alpha=5 / 6)
    assert selection.info == {"base_tokens": 4, "threshold": pytest.approx(5), "actual": 64 - 15 - 3 - 3}
    assert [cell for cell in selection.cells.tolist() if cell[2]] == [[0, 0, 2], [0, 4, 1], [4, 0, 1]]
    reached = select_patches([fine, middle, large], "v2", alpha=1)
    assert reached.info["threshold"] == 6 and reached.info["actual"] == 64 - 3 * 15


def test_v2_uses_the_largest_level_that_has_cells() -> None:
    levels = [np.full(shape, 4, dtype=np.float32) for shape in ((2, 9), (1, 4), (0, 2))]
    assert select_patches(levels, "v2", 1).info == {"base_tokens": 6, "threshold": 4, "actual": 6}
    assert select_patches(levels, "v2", 0.9).info["actual"] == 18
    strip = [np.zeros(shape, dtype=np.float32) for shape in ((1, 5), (0, 2), (0, 1))]
    selection = select_patches(strip, "v2", 9)
    assert selection.info == {"base_tokens": 5, "threshold": None, "actual": 5}


def test_v2_with_a_larger_alpha_never_gives_more_tokens() -> None:
    rng = np.random.default_rng(4)
    fewer = 0
    for _ in range(300):
        pyramid = _pyramid(rng, *_grid(rng), ties=rng.random() < 0.5)
        counts = [select_patches(pyramid, "v2", alpha).info["actual"] for alpha in np.linspace(0, 3, 13).tolist()]
        assert (np.diff(counts) <= 0).all()
        fewer += counts[-1] < counts[0]
    assert fewer > 100


@pytest.mark.parametrize("settings", [("v1", None), ("v2", 0), ("v2", 0.5), ("v2", 3), ("budget", 22 / 196)])
def test_an_image_of_one_colour_takes_the_fewest_tokens(settings: tuple[Any, float | None]) -> None:
    image = np.full((392, 392, 3), 137, dtype=np.uint8)
    assert select_patches(entropy_pyramid(image, 28, 3), *settings).info["actual"] == 22
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    assert len(cells_of(level_maps(entropy_maps(pixels, 28, 3), *settings)[0].numpy())) == 22


def test_wrong_pyramids_are_errors() -> None:
    fine, middle = np.ones((4, 4), dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    with pytest.raises(ConfigError, match="half the rows"):
        select_patches([fine, fine], "budget", 0.5)
    with pytest.raises(ConfigError, match="levels=0"):
        select_patches([], "budget", 0.5)
    with pytest.raises(ConfigError, match="alpha=None"):
        select_patches([fine, middle], "budget")
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="negative or not finite"):
            select_patches([fine, np.full_like(middle, wrong)], "v1")
    with pytest.raises(ConfigError, match="half the rows"):
        level_maps([torch.ones(2, 4, 4), torch.ones(2, 2, 1)], "v1")
    with pytest.raises(ConfigError, match="alpha=True"):
        level_maps([torch.ones(2, 4, 4), torch.ones(2, 2, 2)], "budget", True)


def test_levels_that_are_no_partition_are_errors() -> None:
    assert cells_of(np.array([[1, 1, 0], [1, 1, 0]])).tolist() == [[0, 0, 1], [0, 2, 0], [1, 2, 0]]
    for wrong in ([[0, 1, 1], [0, 1, 1]], [[1, 1, 1], [1, 1, 1]], [[1, 1], [1, 0]], [[-1]], [[2, 2], [2, 2]]):
        with pytest.raises(ConfigError, match="no aligned cells"):
            cells_of(np.array(wrong))


@pytest.mark.parametrize("ties", [False, True])
def test_torch_chooses_what_numpy_chooses_for_each_image(ties: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(250):
        rows, columns, levels = _grid(rng)
        pyramids = [_pyramid(rng, rows, columns, levels, ties) for _ in range(3)]
        maps = [torch.from_numpy(np.stack(level)) for level in zip(*pyramids, strict=True)]
        settings = _settings(rng, levels)
        chosen = level_maps(maps, **settings)
        assert chosen.dtype == torch.int64 and chosen.shape == (3, rows, columns)
        for image, pyramid in zip(chosen.numpy(), pyramids, strict=True):
            np.testing.assert_array_equal(cells_of(image), select_patches(pyramid, **settings).cells)


def test_images_give_the_same_cells_in_torch() -> None:
    # few grays and whole parts of one colour: many cells have the same entropy
    rng = np.random.default_rng(6)
    images = rng.integers(0, 4, (3, 14, 16, 1)).repeat(14, axis=1).repeat(14, axis=2) * 60
    images = images + rng.integers(0, 2, images.shape) * (np.arange(images.shape[2])[:, None] > 100)
    images = images.repeat(3, axis=3).astype(np.uint8)
    maps = entropy_maps(torch.from_numpy(images).permute(0, 3, 1, 2).float(), 28, 3)
    for method, alpha in (("budget", 0.3), ("budget", 0.5), ("v2", 0.8), ("v1", None)):
        for image, chosen in zip(images, level_maps(maps, method, alpha), strict=True):
            expected = select_patches(entropy_pyramid(image, 28, 3), method, alpha)
            np.testing.assert_array_equal(cells_of(chosen.numpy()), expected.cells)


@pytest.mark.parametrize("settings", [("v1", None), ("v2", 0.7), ("budget", 0.4)])
def test_no_value_is_read_back_from_the_device(settings: tuple[Any, float | None]) -> None:
    # tensors of the meta device hold none: item(), nonzero() or a boolean index raise on them
    maps = [torch.empty(2, 9 >> level, 6 >> level, device="meta") for level in range(3)]
    chosen = level_maps(maps, *settings)
    assert chosen.shape == (2, 9, 6) and chosen.device.type == "meta"
    assert level_maps([map_Bhw[:0] for map_Bhw in maps], *settings).shape == (0, 9, 6)
