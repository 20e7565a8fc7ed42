"""Pictures of one image's crops: where they lie on it, what the model sees of each, how often a patch is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskcap.reports.curves import FAINT, INK
from maskcap.reports.panels import Place, bare, heading, inches_a_pixel, write_facts
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.overlap import coverage_counts, overlap_statistics
from maskcap.vision_tokens.tiling import Fit
from maskcap.vision_tokens.views import (
    Prompt,
    Views,
    boxes_on_image,
    coverage_shares,
    crop_boxes,
    padding_share,
    prompt_length,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Bright, since they lie on photos (with a dark edge); neighbours never have the same one.
CROP_COLOURS = ("#35e0ff", "#ff8ad8", "#6dff7c", "#ffffff", "#b79bff", "#ffb347")
# Of patches that 2, 3, 4, and more crops see: colour, and how strongly it covers the image.
_SHADES = (("#ffe100", 0.33), ("#ff8c00", 0.38), ("#ff3b30", 0.42), ("#9b30ff", 0.5))
_PADDING = "#c3cad3"
_DARK = "#11161c"
_PANEL, _GAP, _TOP, _LOWER = 6.6, 0.35, 0.8, 3.3  # inches: width of a panel, space between, head, the lower row


def crops_figure(views: Views, title: str, prompt: Prompt = "internvl") -> Figure:
    """The image with its crops, and the crops as the model gets them; below, coverage, the global view and the costs.

    title: what the picture is called. prompt: whose tokens stand around an image's.
    """
    from matplotlib.figure import Figure

    canvas_height, canvas_width = views.geometry.canvas(*views.tiling)
    panel = float(np.clip(_PANEL * canvas_height / canvas_width, 2.6, 8.5))
    size = 2 * _PANEL + 3 * _GAP, _TOP + panel + 0.65 + _LOWER
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    place = Place(*size)
    figure.text(
        _GAP / size[0], 1 - 0.14 / size[1], title, va="top", fontsize=14, weight="bold", color=INK, parse_math=False
    )
    upper = _LOWER + 0.65
    left = figure.add_axes(place(_GAP, upper, _PANEL, panel))
    draw_crops(left, views.image, views.tiling, views.fit, views.geometry)
    heading(left, f"{_count(views.tiling)} on the image")
    _shade_legend(left, views)
    right = figure.add_axes(place(2 * _GAP + _PANEL, upper, _PANEL, panel))
    _draw_stitched(right, views)
    several = views.tiling != (1, 1)
    heading(
        right, "as the model sees them; tokens of the pale margins are dropped" if several else "as the model sees it"
    )
    _draw_coverage(figure.add_axes(place(_GAP + 0.55, 0.62, 3.9, _LOWER - 1.1)), views)
    if views.global_view is not None:
        whole = figure.add_axes(place(_GAP + 5.1, 0.3, _LOWER - 0.75, _LOWER - 0.75))
        whole.imshow(views.global_view)
        bare(whole)
        heading(whole, "0: the global view")
    write_facts(figure, _facts(views, prompt), 2 * _GAP + _PANEL + 1.0, _LOWER - 0.2)
    return figure


def draw_crops(
    axes: Axes,
    image_HW3: np.ndarray,
    tiling: tuple[int, int],
    fit: Fit,
    geometry: Geometry,
    label: bool = True,
) -> None:
    """Draw an image, in its own pixels, with the padding of its canvas, shaded overlaps and each crop's outline.

    image: uint8 (H, W, 3). fit: where it lies on the canvas. label: number the crops from 1, row by row.
    """
    from matplotlib.patches import Rectangle

    height, width = image_HW3.shape[:2]
    canvas = np.array([[0, 0, *geometry.canvas(*tiling)]])
    top, left, bottom, right = boxes_on_image(canvas, fit, height, width, cut=False)[0]
    axes.set_facecolor(_PADDING)
    axes.imshow(image_HW3, extent=(0, width, height, 0), interpolation="antialiased")
    axes.imshow(_shades(tiling, geometry), extent=(left, right, bottom, top), interpolation="nearest")
    inches = inches_a_pixel(axes, bottom - top, right - left)
    boxes = boxes_on_image(crop_boxes(*tiling, geometry), fit, height, width, cut=False)
    thin = min(1.0, 6 / max(tiling))
    step = geometry.window * height / fit.height  # what the numbers have room in
    for index, (y0, x0, y1, x1) in enumerate(boxes):
        row, column = divmod(index, tiling[1])
        inset = (0.02 + 0.045 * ((row + column) % 2)) * thin / inches  # so that edges on one line stay two edges
        corner, sides = (x0 + inset, y0 + inset), (x1 - x0 - 2 * inset, y1 - y0 - 2 * inset)
        for colour, line in ((_DARK, 3.6), (_colour(row, column), 1.8)):
            axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=line * thin))
        if label:
            _number(axes, (x0 + x1) / 2, (y0 + y1) / 2, index + 1, _colour(row, column), step * inches)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    bare(axes)


def _draw_stitched(axes: Axes, views: Views) -> None:
    """Crops side by side with gaps, the tokens that are dropped of each whitened."""
    from matplotlib.patches import Rectangle

    geometry, (rows, columns) = views.geometry, views.tiling
    step = round(geometry.crop * 1.06)
    gap = step - geometry.crop
    sheet = np.full((step * rows - gap, step * columns - gap, 3), 255, np.uint8)
    kept_rows, kept_columns = (_kept_pixels(count, geometry) for count in views.tiling)
    for index, crop in enumerate(views.crops):
        row, column = divmod(index, columns)
        kept = np.outer(kept_rows[row], kept_columns[column])[..., None]
        pale = (0.3 * crop + 0.7 * 255).astype(np.uint8)
        top, left = row * step, column * step
        sheet[top : top + geometry.crop, left : left + geometry.crop] = np.where(kept, crop, pale)
    axes.imshow(sheet, interpolation="antialiased")
    inches = inches_a_pixel(axes, *sheet.shape[:2])
    thin = min(1.0, 6 / max(views.tiling))
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        left, top = column * step - 0.5, row * step - 0.5
        for colour, line in ((_DARK, 3.6), (_colour(row, column), 1.8)):
            axes.add_patch(
                Rectangle(
                    (left, top), geometry.crop, geometry.crop, fill=False, edgecolor=colour, linewidth=line * thin
                )
            )
        middle = geometry.crop / 2
        _number(axes, left + middle, top + middle, index + 1, _colour(row, column), geometry.crop * inches)
    edge = 0.03 / inches  # room for the outer half of a line
    axes.set_xlim(-edge, sheet.shape[1] + edge)
    axes.set_ylim(sheet.shape[0] + edge, -edge)
    bare(axes)


def _kept_pixels(crops: int, geometry: Geometry) -> np.ndarray:
    """bool (crops, crop px): along an axis, which pixels of each crop belong to kept tokens."""
    kept = np.zeros((crops, geometry.side), bool)
    kept[geometry.kept_axis(crops)] = True
    return kept.repeat(geometry.cell, axis=1)


def _draw_coverage(axes: Axes, views: Views) -> None:
    shares = coverage_shares(*views.tiling, views.geometry)
    counts = list(range(1, max(4, *shares) + 1))
    heights = [100 * shares.get(count, 0) for count in counts]
    colours = ["#9aa5b1" if count == 1 else _shade(count)[0] for count in counts]
    bars = axes.bar(counts, heights, width=0.62, color=colours, edgecolor=INK, linewidth=0.6)
    few = len(counts) <= 5
    empty, form = ("none", "{:.1f} %") if few else ("", "{:.0f}")
    texts = [form.format(height) if height else empty for height in heights]
    axes.bar_label(bars, texts, padding=2, color=INK, fontsize=10 if few else 8)
    axes.set_xticks(counts, [f"{count} crop{'s' if count > 1 else ''}" if few else str(count) for count in counts])
    axes.tick_params(labelsize=9, colors=INK, length=0)
    if not few:
        axes.set_xlabel("crops", fontsize=9, color=FAINT)
    axes.set_ylim(0, 1.17 * max(heights))
    axes.set_ylabel("share of the patches, %", fontsize=9, color=FAINT)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    heading(axes, "coverage: patches seen by")


def _facts(views: Views, prompt: Prompt) -> list[tuple[str, str]]:
    geometry, tiling = views.geometry, views.tiling
    height, width = views.image.shape[:2]
    canvas = geometry.canvas(*tiling)
    whole = views.global_view is not None
    overlap = overlap_statistics(*tiling, geometry)
    around = "<img> and </img>" if prompt == "internvl" else "Molmo's start, end and row tokens"
    slots, kept = geometry.slots(*tiling, whole), geometry.kept(*tiling, whole)
    views_made = f"{tiling[0] * tiling[1] + whole} views of {geometry.crop_tokens}"
    return [
        ("image", f"{height} × {width} px (height × width)"),
        ("tiling", f"{_count(tiling)} of {geometry.crop} px, one every {geometry.window} px"),
        ("canvas", f"{canvas[0]} × {canvas[1]} px, {padding_share(views.fit, canvas):.1%} of it padding"),
        ("slots", f"{slots:,} tokens for the vision encoder: {views_made}"),
        ("kept", f"{kept:,} tokens for the language model{', global view included' if whole else ''}"),
        ("sequence", f"{prompt_length(*tiling, geometry, prompt, whole):,} tokens, with {around}"),
        ("overlap", f"{overlap.overlap:.1%} of the patches are in two crops or more"),
        ("depth", f"{overlap.depth:.2f} crops see such a patch" if overlap.depth else "no patch is in two crops"),
        ("redundancy", f"{overlap.redundancy:.2f} crops see a patch, of all patches"),
        ("wasted", f"{overlap.wasted:.1%} of the crops' tokens are dropped"),
    ]


def _shade_legend(axes: Axes, views: Views) -> None:
    from matplotlib.patches import Patch

    shares = coverage_shares(*views.tiling, views.geometry)
    handles = []
    for count in sorted({min(count, 5) for count in shares if count > 1}):
        label = f"seen by {count} crops{' or more' if count == 5 else ''}"
        handles.append(Patch(facecolor=_shade(count)[0], edgecolor=INK, linewidth=0.6, label=label))
    if padding_share(views.fit, views.geometry.canvas(*views.tiling)) > 0:
        handles.append(Patch(facecolor=_PADDING, edgecolor=INK, linewidth=0.6, label="padding (black to the model)"))
    if handles:
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3, frameon=False, fontsize=10,
            borderaxespad=0, borderpad=0.2, handlelength=1.4, labelcolor=INK,
        )  # fmt: skip


def _shades(tiling: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """float (patch rows, patch columns, 4), RGBA: transparent where one crop sees a patch."""
    from matplotlib.colors import to_rgba

    counts = coverage_counts(*tiling, geometry)
    shades = np.zeros((*counts.shape, 4))
    for count in np.unique(counts[counts > 1]):
        colour, alpha = _shade(count)
        shades[counts == count] = to_rgba(colour, alpha)
    return shades


def _shade(count: int) -> tuple[str, float]:
    return _SHADES[min(count, 5) - 2]


def _colour(row: int, column: int) -> str:
    return CROP_COLOURS[(column + 2 * row) % len(CROP_COLOURS)]


def _number(axes: Axes, x: float, y: float, number: int, colour: str, inches: float) -> None:
    """inches: from one crop to the next on paper."""
    size = float(np.clip(72 * inches * 0.2, 5, 15))
    box = {"boxstyle": "round,pad=0.25", "facecolor": _DARK, "edgecolor": colour, "linewidth": size / 10}
    axes.text(
        x, y, str(number), color=colour, fontsize=size, weight="bold", ha="center", va="center", bbox=box, clip_on=True
    )


def _count(tiling: tuple[int, int]) -> str:
    crops = tiling[0] * tiling[1]
    return f"{tiling[0]} × {tiling[1]} = {crops} crop{'s' if crops > 1 else ''}"
