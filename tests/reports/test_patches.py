"""The picture of an image's patches: outlines where the cells are, one scale for all maps, the chosen point marked."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from maskcap.reports.figures import figure_to_array
from maskcap.reports.patch_curves import METHOD_COLOURS
from maskcap.reports.patches import LEVEL_COLOURS, draw_cells, patches_figure
from maskcap.vision_tokens.block_resize import BlockResize
from maskcap.vision_tokens.patch_report import PatchView, make_patches, token_curves
from maskcap.vision_tokens.settings import Patches


def picture(height: int = 140, width: int = 252) -> np.ndarray:
    """uint8 (height, width, 3): flat, with noise at the right."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[:, -width // 3 :] = np.random.default_rng(0).integers(0, 256, (height, -(-width // 3), 3), np.uint8)
    return image


def view_of(image: np.ndarray, **settings: object) -> PatchView:
    return make_patches(image, Patches(**settings), BlockResize())  # pyright: ignore[reportArgumentType]


def drawn(view: PatchView, title: str = "a_$photo$.jpg") -> Figure:
    return patches_figure(view, token_curves(view), title)


def titled(figure: Figure, start: str) -> Axes:
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(start)]
    return axes


def texts(figure: Figure) -> str:
    words = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        words += [axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)]
        legend = axes.get_legend()
        words += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(words)


def test_the_figure_says_what_was_spent():
    view = view_of(picture(), alpha=0.5)  # 5 × 9 cells: 15 at least, round(22.5) = 22, 2 splits
    said = texts(drawn(view))
    for part in (
        "a_$photo$.jpg",
        "21 of 45 tokens (46.7%) · budget, alpha 0.5",
        "140 × 252 px, resized to 140 × 252 px",
        "5 × 9 = 45 cells of 28 px",
        "fewest possible: 15",
        "22 tokens (0.5 × 45); 2 splits, 3 tokens each",
        "all 45",
        "21 of 45",
        "a larger alpha gives fewer tokens",
        "v1: no alpha; coarse below 3, 2 bits",
    ):
        assert part in said, part
    for level, count in enumerate(np.bincount(view.selection.cells[:, 2], minlength=3)):
        assert f"{28 * 2**level} px: {count} token" in said
        assert f"entropy, {28 * 2**level} px: mean {view.pyramid[level].mean():.2f} bits" in said
    assert "v1, thresholds 3, 2 bits" in texts(drawn(view_of(picture(), method="v1")))
    v2 = view_of(picture(), method="v2", alpha=0.8)
    assert f"{0.8 * view.pyramid[2].mean():.2f} bits = 0.8 × the mean of the 112 px cells" in texts(drawn(v2))


def test_outlines_are_at_the_cells_and_coarser_ones_thicker():
    view = view_of(picture(), alpha=0.5)
    axes = Figure().add_subplot()
    draw_cells(axes, view)
    widths = []
    for level, (colour, strength) in enumerate(LEVEL_COLOURS[:3]):
        (lines,) = [each for each in axes.collections if each.get_gid() == f"level {level}"]
        assert isinstance(lines, PolyCollection)
        assert to_rgb(np.asarray(lines.get_edgecolor())[0]) == to_rgb(colour)
        boxes = {(*np.min(path.vertices, axis=0), *np.max(path.vertices, axis=0)) for path in lines.get_paths()}
        cells = [(row, column) for row, column, of in view.selection.cells.tolist() if of == level]
        side = 28 * 2**level
        assert boxes == {(28 * x, 28 * y, 28 * x + side, 28 * y + side) for y, x in cells} and cells
        tints = [each for each in axes.collections if each.get_gid() is None and each.get_alpha() == strength]
        assert len(tints) == (level > 0)  # the finest level stays clear
        widths.append(float(np.max(lines.get_linewidth())))
    assert widths == sorted(set(widths))


def test_maps_share_one_scale_and_lie_where_their_cells_do():
    view = view_of(picture(), alpha=0.5)
    figure = drawn(view)
    highest = max(float(entropy.max()) for entropy in view.pyramid)
    for level, entropy in enumerate(view.pyramid):
        (shown,) = titled(figure, f"entropy, {28 * 2**level} px").get_images()
        assert np.array_equal(np.asarray(shown.get_array()), entropy) and shown.get_clim() == (0, highest)
        rows, columns = entropy.shape
        assert tuple(shown.get_extent()) == (0, columns * 28 * 2**level, rows * 28 * 2**level, 0)
        assert shown.axes.get_xlim() == (0, 252)
    assert [axes.get_ylabel() for axes in figure.axes].count("entropy, bits") == 1


@pytest.mark.parametrize(("method", "alpha"), [("budget", 0.3), ("v2", 0.9), ("v2", 4.0), ("v1", None)])
def test_the_chosen_point_is_marked_on_its_curve(method: str, alpha: float | None):
    view = view_of(picture(), method=method, alpha=alpha)
    axes = titled(drawn(view), "tokens of this image")
    (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert np.asarray(mark.get_ydata()).tolist() == [view.tokens] and mark.get_color() == METHOD_COLOURS[method]
    if alpha is not None:
        assert np.asarray(mark.get_xdata()).tolist() == [alpha]
    assert axes.get_xlim() == (0, 5 if alpha == 4 else 1.5)
    for curve in token_curves(view):
        (line,) = [line for line in axes.lines if str(line.get_label()).startswith(f"{curve.method}:")]
        assert line.get_color() == METHOD_COLOURS[curve.method]
        assert set(np.asarray(line.get_ydata()).tolist()) == set(curve.tokens)


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (1, 1), (56, 56), (300, 280)])
@pytest.mark.parametrize(("method", "levels"), [("budget", 1), ("v2", 6), ("v1", 3)])
def test_any_shape_can_be_drawn(size: tuple[int, int], method: str, levels: int):
    view = view_of(np.zeros((*size, 3), np.uint8), method=method, levels=levels)
    figure = drawn(view)
    pixels = figure_to_array(figure)
    assert pixels.shape[1] > 1000 and pixels.std() > 5
    said = texts(figure)
    assert f"{view.tokens} of {view.all_tokens} tokens" in said and f"{size[0]} × {size[1]} px, resized" in said
    missing = sum(not entropy.size for entropy in view.pyramid)
    assert said.count("no cell of") == missing
