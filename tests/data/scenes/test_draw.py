from __future__ import annotations

import numpy as np
import pytest

from maskcap.data.scenes.draw import RADIUS, RGB, coverage, draw_objects, outline
from maskcap.data.scenes.grammar import COLOURS, PLACES, SHAPES, Attributes
from maskcap.data.scenes.scene import SPLITS, make_scene


def shoelace(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule: a ray to the right crosses the outline an odd number of times."""
    crossings = np.zeros(x.shape, int)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            crossings += ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [6.3, 21.7, 39.1])
def test_coverage_is_the_share_of_points_inside_the_outline(shape: str, radius: float):
    centre = np.array([60.3, 58.8])
    patch, (rows, columns) = coverage(shape, centre, radius, 128)
    corners = outline(shape) * radius + centre
    y, x = np.mgrid[8 * rows.start : 8 * rows.stop, 8 * columns.start : 8 * columns.stop] / 8 + 1 / 16
    expected = inside(corners, x, y).reshape(patch.shape[0], 8, patch.shape[1], 8).mean(axis=(1, 3))
    assert expected.sum() == pytest.approx(shoelace(corners), rel=0.03)
    assert np.abs(patch - expected).max() < 0.4  # 4×4 points a pixel, those under the outline counted in
    assert np.abs(patch - expected).mean() < 0.02


def test_coverage_is_where_it_was_asked_for():
    for centre in ([40.0, 70.5], [40.75, 70.25]):
        patch, (rows, columns) = coverage("circle", np.array(centre), 12.0, 128)
        y, x = np.mgrid[rows, columns] + 0.5
        found = [(patch * axis).sum() / patch.sum() for axis in (x, y)]
        assert found == pytest.approx(centre, abs=0.1)


def test_coverage_is_cut_at_the_image():
    patch, (rows, columns) = coverage("square", np.array([2.0, 126.0]), 10.0, 128)
    assert (rows.stop, columns.start) == (128, 0)
    assert patch.shape == (rows.stop - rows.start, columns.stop - columns.start)


def test_small_and_large_never_meet_in_area():
    areas = [shoelace(outline(shape)) for shape in SHAPES]
    (small, small_spread), (large, large_spread) = RADIUS["small"], RADIUS["large"]
    assert min(areas) * (large * (1 - large_spread)) ** 2 > 1.35 * max(areas) * (small * (1 + small_spread)) ** 2


@pytest.mark.parametrize("index", range(8))
def test_a_scene_s_objects_are_whole_apart_in_their_cells_and_of_their_colour(index: int):
    scene = make_scene(1, SPLITS[0], index, 192)
    assert scene.image.shape == (192, 192, 3) and scene.image.dtype == np.uint8
    assert scene.masks.dtype == np.uint8 and set(np.unique(scene.masks)) == {0, 1}
    assert scene.masks.sum(axis=0).max() == 1
    assert not scene.masks[:, [0, -1]].any() and not scene.masks[:, :, [0, -1]].any()
    for item, mask in zip(scene.composition.objects, scene.masks, strict=True):
        y, x = np.argwhere(mask).mean(axis=0) / 64
        assert PLACES[3 * int(y) + int(x)] == item.place
        inside = scene.image[mask.astype(bool)].mean(axis=0)
        assert min(COLOURS, key=lambda name: float(np.abs(inside - RGB[name]).sum())) == item.colour
    ground = scene.image[scene.masks.sum(axis=0) == 0].mean(axis=0)
    assert np.ptp(ground) < 15  # grey


def test_nine_large_objects_still_leave_room_between_them():
    objects = [Attributes("large", "red", SHAPES[i % 4], place) for i, place in enumerate(PLACES)]
    for seed in range(20):
        _, masks = draw_objects(objects, 128, np.random.default_rng(seed))
        assert masks.sum(axis=0).max() == 1


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = make_scene(0, SPLITS[0], 5, 96)
    assert (first.image == make_scene(0, SPLITS[0], 5, 96).image).all()
    for other in (make_scene(1, SPLITS[0], 5, 96), make_scene(0, SPLITS[1], 5, 96), make_scene(0, SPLITS[0], 6, 96)):
        assert (first.image != other.image).any()
