"""Overlap: the specification's table, and every count against crops painted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.overlap import coverage_counts, overlap_closed_form, overlap_statistics

TILINGS = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7)]


@pytest.mark.parametrize(
    ("tiling", "overlap", "redundancy", "depth", "wasted"),
    [
        ((1, 1), 0.0, 1.000, None, 0.0),
        ((1, 2), 20.0, 1.200, 2, 16.7),
        ((2, 2), 36.0, 1.440, 2.222, 30.6),
        ((2, 3), 42.9, 1.543, 2.267, 35.2),
        ((3, 3), 49.0, 1.653, 2.333, 39.5),
        ((3, 4), 52.4, 1.714, 2.364, 41.7),
    ],
)
def test_the_specifications_table(tiling, overlap, redundancy, depth, wasted) -> None:
    for rows, columns in (tiling, tiling[::-1]):
        found = overlap_statistics(rows, columns)
        assert found.overlap * 100 == pytest.approx(overlap, abs=0.05)
        assert found.redundancy == pytest.approx(redundancy, abs=0.0005)
        assert found.depth == (depth if depth is None else pytest.approx(depth, abs=0.0005))
        assert found.wasted * 100 == pytest.approx(wasted, abs=0.05)


@pytest.mark.parametrize(("rows", "columns"), TILINGS)
def test_the_closed_forms_equal_the_count(rows: int, columns: int) -> None:
    found = overlap_statistics(rows, columns)
    assert overlap_closed_form(rows, columns) == pytest.approx((found.overlap, found.redundancy), abs=1e-12)
    # the sum of all n is that of the crops' patches, of which `depth` is the mean over the shared ones
    shared = found.overlap * (found.depth or 0)
    assert found.redundancy == pytest.approx(1 - found.overlap + shared)


@pytest.mark.parametrize(
    "geometry",
    [
        MOLMO,
        Geometry(448, 14, (4, 4), 2),
        Geometry(336, 14, (2, 6), 2),
        Geometry(56, 14, (1, 2), 1),  # a window of one patch: three crops over one place
        Geometry(56, 14, (0, 0), 2),
    ],
)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 1)])
def test_counts_equal_crops_painted_in_pixels(geometry: Geometry, rows: int, columns: int) -> None:
    painted = np.zeros(geometry.canvas(rows, columns), np.int64)
    for row in range(rows):
        for column in range(columns):
            top, left = row * geometry.window, column * geometry.window
            painted[top : top + geometry.crop, left : left + geometry.crop] += 1
    counts = coverage_counts(rows, columns, geometry)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(np.kron(counts, np.ones((geometry.patch,) * 2, np.int64)), painted)

    found = overlap_statistics(rows, columns, geometry)
    assert found.redundancy == pytest.approx(painted.mean())
    assert found.overlap == pytest.approx((painted > 1).mean())
    assert found.depth == (pytest.approx(painted[painted > 1].mean()) if painted.max() > 1 else None)
    # each kept token is one of the canvas, and the crops computed `redundancy` times as many
    assert found.wasted == pytest.approx(1 - 1 / found.redundancy)


@pytest.mark.parametrize("function", [coverage_counts, overlap_statistics, overlap_closed_form])
def test_no_crops_are_an_error(function) -> None:
    with pytest.raises(ConfigError, match="0 × 2"):
        function(0, 2)
