"""Geometry: Molmo's figures from the specification, other geometries against pixels drawn on a canvas."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry

OTHERS = [
    Geometry(448, 14, (4, 4), 2),  # InternVL's crops
    Geometry(336, 14, (2, 6), 2),
    Geometry(56, 14, (0, 0), 1),
    Geometry(90, 10, (3, 3), 3),
]


def test_the_defaults_are_molmos() -> None:
    assert (MOLMO.patches, MOLMO.window, MOLMO.margin) == (24, 224, 112)
    assert (MOLMO.side, MOLMO.crop_tokens, MOLMO.cell) == (12, 144, 28)
    assert hash(MOLMO) == hash(Geometry(margins=[4, 4]))  # pyright: ignore[reportArgumentType]  as YAML gives them


@pytest.mark.parametrize(
    ("canvas", "tiling", "slots", "kept"),
    [
        ((560, 336), (2, 1), 432, 384),
        ((336, 560), (1, 2), 432, 384),
        ((560, 560), (2, 2), 720, 544),
        ((560, 784), (2, 3), 1008, 704),
        ((784, 560), (3, 2), 1008, 704),
        ((784, 784), (3, 3), 1440, 928),
    ],
)
def test_the_specifications_table_of_tokens(canvas, tiling, slots, kept) -> None:
    assert MOLMO.canvas(*tiling) == canvas
    assert MOLMO.slots(*tiling) == slots
    assert MOLMO.kept(*tiling) == kept
    assert MOLMO.slots(*tiling, global_view=False) == slots - 144
    assert MOLMO.kept(*tiling, global_view=False) == kept - 144


@pytest.mark.parametrize("geometry", [MOLMO, *OTHERS])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (4, 2)])
def test_kept_tokens_tile_the_canvas_once(geometry: Geometry, rows: int, columns: int) -> None:
    height, width = geometry.canvas(rows, columns)
    assert geometry.kept_grid(rows, columns) == (height / geometry.cell, width / geometry.cell)
    assert geometry.kept(rows, columns, global_view=False) == height * width / geometry.cell**2

    # paint every kept token where its crop says that it lies
    painted = np.zeros((height, width), np.int64)
    for crop_row, row in zip(*geometry.kept_axis(rows), strict=True):
        for crop_column, column in zip(*geometry.kept_axis(columns), strict=True):
            top = crop_row * geometry.window + row * geometry.cell
            left = crop_column * geometry.window + column * geometry.cell
            painted[top : top + geometry.cell, left : left + geometry.cell] += 1
    np.testing.assert_array_equal(painted, 1)


def test_kept_axis_drops_interior_margins_only() -> None:
    crop, place = MOLMO.kept_axis(3)
    assert crop.dtype == place.dtype == np.int64
    # crops of 12 tokens, margins of 2: the outer ones keep the margin at the canvas's edge
    assert place[crop == 0].tolist() == list(range(10))
    assert place[crop == 1].tolist() == list(range(2, 10))
    assert place[crop == 2].tolist() == list(range(2, 12))
    assert MOLMO.kept_axis(1)[1].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": 0}, "positive"),
        ({"patch": -14}, "positive"),
        ({"margins": (-4, 4)}, "not negative"),
        ({"crop": 350}, "no multiple of a token's 28 px"),
        ({"margins": (3, 4)}, "multiples of 2"),
        ({"margins": (12, 12)}, "leave no window"),
    ],
)
def test_sizes_that_do_not_divide_are_errors(wrong, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Geometry(**wrong)


def test_mean_costs_weigh_each_tiling_by_its_images() -> None:
    """The spec's table: 1×2 and 2×2 crops cost 432 and 720 slots, of which 384 and 544 are kept."""
    slots, kept = MOLMO.mean_costs({(1, 2): 3, (2, 2): 1})
    assert (slots, kept) == ((3 * 432 + 720) / 4, (3 * 384 + 544) / 4)
    assert MOLMO.mean_costs({(1, 2): 5}, global_view=False) == (288, 240)
