"""The pictures of crops say what the views are: outlines where the boxes are, shades where crops overlap."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from maskcap.reports.crops import CROP_COLOURS, crops_figure, draw_crops
from maskcap.reports.figures import figure_to_array
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.views import make_views

SMALL = Geometry(crop=56, patch=7, margins=(2, 2), pool=2)
GREY = np.full((90, 140, 3), 128, np.uint8)


def texts(figure: Figure) -> str:
    words = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        words += [axes.get_title(loc="left"), axes.get_title(), *(text.get_text() for text in axes.texts)]
        legend = axes.get_legend()
        words += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(words)


def test_the_figure_says_the_costs_and_shows_every_crop():
    views = make_views(GREY, TilingRule(SMALL))
    assert views.tiling == (3, 4)
    figure = crops_figure(views, "a_$photo$.jpg")
    said = texts(figure)
    for part in (
        "a_$photo$.jpg",
        "3 × 4 = 12 crops",
        "90 × 140 px",
        "13 views of 16",
        "208 tokens",
        "<img> and </img>",
    ):
        assert part in said, part
    assert f"{SMALL.kept(3, 4):,} tokens for the language model, global view included" in said
    assert "seen by 2 crops" in said and "seen by 4 crops" in said and "padding" in said
    numbers = Counter(text.get_text() for axes in figure.axes for text in axes.texts if text.get_text().isdigit())
    assert numbers == {str(number): 2 for number in range(1, 13)}  # on the image, and side by side
    pixels = figure_to_array(figure)
    assert pixels.shape[1] > 1000 and pixels.std() > 20
    without = texts(crops_figure(make_views(GREY, TilingRule(SMALL), global_view=False), "a.jpg", "molmo"))
    assert "global view" not in without and "12 views of 16" in without and "Molmo's" in without


def test_outlines_and_numbers_are_at_the_boxes():
    views = make_views(GREY, TilingRule(SMALL))
    axes = Figure().add_subplot()
    draw_crops(axes, views.image, views.tiling, views.fit, SMALL)
    drawn = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(drawn) == 24  # a dark line and a bright one on it
    scale = 90 / views.fit.height
    for number, (box, text) in enumerate(zip(views.boxes, axes.texts, strict=True)):
        middle = (box[:2] + box[2:]) / 2 - (views.fit.top, views.fit.left)
        assert text.get_text() == str(number + 1)
        assert text.get_position()[::-1] == pytest.approx(middle * scale, abs=1)
        dark, bright = drawn[2 * number : 2 * number + 2]
        assert dark.get_linewidth() > bright.get_linewidth()
        x, y = bright.get_center()
        assert (y, x) == pytest.approx(middle * scale, abs=1) and bright.get_height() <= 56 * scale


def test_neighbours_never_share_a_colour():
    colours = {to_rgb(colour) for colour in CROP_COLOURS}
    assert len(colours) == len(CROP_COLOURS)
    axes = Figure().add_subplot()
    draw_crops(axes, GREY, (5, 8), make_views(GREY, TilingRule(SMALL, exact_crops=40)).fit, SMALL, label=False)
    edges = np.array([patch.get_edgecolor()[:3] for patch in axes.patches][1::2]).reshape(5, 8, 3)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        assert (edges[: 5 - down, : 8 - right] != edges[down:, right:]).any(axis=-1).all()
    assert not axes.texts


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (1, 1), (56, 56)])
def test_any_shape_can_be_drawn(size: tuple[int, int]):
    views = make_views(np.zeros((*size, 3), np.uint8), TilingRule(SMALL, max_crops=20))
    figure = crops_figure(views, "x")
    pixels = figure_to_array(figure)
    assert pixels.ndim == 3 and min(pixels.shape[:2]) > 100 and pixels.std() > 0  # drawn, and not blank
    rows, columns = views.tiling
    heading = f"{rows} × {columns} = {rows * columns} crop{'s' if rows * columns > 1 else ''} on the image"
    assert heading in texts(figure) and f"{size[0]} × {size[1]} px (height × width)" in texts(figure)


def test_more_than_four_crops_may_see_a_patch():
    wide = Geometry(crop=56, patch=7, margins=(2, 4), pool=2)
    figure = crops_figure(make_views(GREY, TilingRule(wide, max_crops=30)), "x")
    assert "seen by 5 crops or more" in texts(figure)
    figure_to_array(figure)
