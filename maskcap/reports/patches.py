"""The picture of one image's adaptive patches: its cells, the entropies that chose them, and tokens against alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.reports.curves import FAINT, INK
from maskcap.reports.panels import Place, bare, heading, inches_a_pixel, write_facts
from maskcap.reports.patch_curves import draw_token_curves, in_bits
from maskcap.vision_tokens.patch_report import Curve, PatchView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the levels, finest first: line, and how strongly it covers the image. The finest is left clear: tokens were spent
# there. Told apart by colour-blind readers too; levels beyond the last share its colour.
LEVEL_COLOURS = (("#ffffff", 0.0), ("#00b4d8", 0.26), ("#e0329f", 0.3), ("#ffb000", 0.36), ("#6d4dff", 0.4))
_DARK = "#11161c"
_NO_CELL = "#e4e7eb"
_MAP = "magma"
_PANEL, _NARROW, _SIDE = 7.4, 5.0, 5.6  # inches: most and least width of the image's column, the column beside it
_GAP, _TOP, _FACTS, _BAR = 0.4, 0.95, 1.45, 0.75  # inches: space between, head, lines of facts, colour bar with numbers


def patches_figure(view: PatchView, curves: Sequence[Curve], title: str) -> Figure:
    """The image with its cells, the facts and tokens against alpha beside it, each level's entropies below.

    curves: `token_curves` of the view. title: what the picture is called.
    """
    from matplotlib.figure import Figure

    height, width = view.image.shape[:2]
    panel = float(np.clip(_PANEL * height / width, 4.6, 7.6))
    column = float(np.clip(panel * width / height, _NARROW, _PANEL))
    levels, whole = len(view.pyramid), column + _SIDE + 3 * _GAP
    map_width = (whole - _GAP * (levels + 1) - _BAR) / levels
    map_height = float(np.clip(map_width * height / width, 0.8, 3.6))
    legends = 0.45 + 0.22 * -(-levels // _legend_columns(column))
    lower = map_height + 0.65 + max(legends, 1.05)
    size = whole, _TOP + panel + lower
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    place = Place(*size)
    _head(figure, view, title)
    axes = figure.add_axes(place(_GAP, lower, column, panel))
    draw_cells(axes, view)
    _level_legend(axes, view, _legend_columns(column))
    left = 2 * _GAP + column
    write_facts(figure, _facts(view), left, size[1] - _TOP - 0.14, name_width=0.9, size=10)
    draw_token_curves(figure.add_axes(place(left + 0.5, lower, _SIDE - 0.5, panel - _FACTS - 0.3)), view, curves)
    boxes = [place(_GAP + level * (map_width + _GAP), 0.25, map_width, map_height) for level in range(levels)]
    _draw_maps(figure, view, boxes, place(whole - _GAP - _BAR + 0.05, 0.25, 0.16, map_height))
    return figure


def draw_cells(axes: Axes, view: PatchView) -> None:
    """Draw the resized image, in its pixels, with every cell outlined; coarser ones tinted and in thicker lines."""
    from matplotlib.collections import PolyCollection

    height, width = view.image.shape[:2]
    axes.imshow(view.image, extent=(0, width, height, 0), interpolation="antialiased")
    points = 72 * view.cell * inches_a_pixel(axes, height, width)  # side of a level-0 cell on paper
    fine = float(np.clip(points / 20, 0.2, 1.0))
    for level in range(len(view.pyramid)):
        corners = _corners(view, level)
        colour, strength = _colour(level)
        if strength:
            axes.add_collection(PolyCollection(corners, facecolors=colour, edgecolors="none", alpha=strength))
        line = fine * (0.55 + 0.75 * level)
        for edge, wide in ((_DARK, line + 0.7 * fine), (colour, line)):
            lines = PolyCollection(corners, facecolors="none", edgecolors=edge, linewidths=wide, joinstyle="miter")
            lines.set_gid(f"level {level}" if edge == colour else f"level {level}, dark")
            axes.add_collection(lines)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    bare(axes)


def _corners(view: PatchView, level: int) -> list[np.ndarray]:
    """float (4, 2) for each of the level's cells: x and y of its corners, px."""
    cells = view.selection.cells[view.selection.cells[:, 2] == level]
    top, left = view.cell * cells[:, 0], view.cell * cells[:, 1]
    bottom, right = top + view.cell * 2**level, left + view.cell * 2**level
    ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return list(np.stack([np.stack(corner, axis=-1) for corner in ring], axis=1).astype(float))


def _draw_maps(figure: Figure, view: PatchView, boxes: Sequence[Any], bar_box: Any) -> None:
    """Each level's entropies over the image's extent, in one scale of colours from 0 bits up."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height, width = view.image.shape[:2]
    highest = max(float(entropy.max()) for entropy in view.pyramid if entropy.size) or 1.0
    scale = Normalize(0, highest)
    size = float(np.clip(3.9 * boxes[0][2] * figure.get_figwidth(), 6, 11))  # points: what a map's width has room for
    for level, (entropy, box) in enumerate(zip(view.pyramid, boxes, strict=True)):
        axes = figure.add_axes(box)
        axes.set_facecolor(_NO_CELL)
        side = view.cell * 2**level
        if entropy.size:
            extent = (0, entropy.shape[1] * side, entropy.shape[0] * side, 0)
            axes.imshow(entropy, extent=extent, cmap=_MAP, norm=scale, interpolation="nearest")
        said = f"entropy, {side} px: mean {entropy.mean():.2f} bits" if entropy.size else f"no cell of {side} px fits"
        heading(axes, said, size)
        axes.set_aspect("equal")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        bare(axes)
    bar = figure.colorbar(ScalarMappable(scale, _MAP), cax=figure.add_axes(bar_box))
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(labelsize=9, colors=INK, length=0)
    bar.set_label("entropy, bits", fontsize=9, color=FAINT)


def _head(figure: Figure, view: PatchView, title: str) -> None:
    width, height = figure.get_size_inches()
    x = _GAP / width
    figure.text(x, 1 - 0.16 / height, title, va="top", fontsize=14, weight="bold", color=INK, parse_math=False)
    said = f"{view.tokens:,} of {view.all_tokens:,} tokens ({view.tokens / view.all_tokens:.1%}) · {_method(view)}"
    figure.text(x, 1 - 0.5 / height, said, va="top", fontsize=12, color=INK, parse_math=False)


def _method(view: PatchView) -> str:
    if view.settings.method == "v1":
        return f"v1, thresholds {in_bits(view.thresholds)}"
    return f"{view.settings.method}, alpha {view.alpha:g}"


def _facts(view: PatchView) -> list[tuple[str, str]]:
    (rows, columns), (height, width) = view.grid, view.image.shape[:2]
    tokens, fewest = view.tokens, view.selection.info["base_tokens"]
    return [
        ("image", f"{view.size[0]} × {view.size[1]} px, resized to {height} × {width} px (height × width)"),
        ("grid", f"{rows} × {columns} = {view.all_tokens:,} cells of {view.cell} px: all the tokens"),
        ("tokens", f"{tokens:,}, or {tokens / view.all_tokens:.1%}; fewest possible: {fewest:,}"),
        _reason(view),
    ]


def _reason(view: PatchView) -> tuple[str, str]:
    """What decided how many tokens there are."""
    info, alpha = view.selection.info, view.alpha
    if view.settings.method == "budget":
        splits = f"{info['k']:,} split{'' if info['k'] == 1 else 's'}, 3 tokens each"
        return "budget", f"{info['budget']:,} tokens ({alpha:g} × {view.all_tokens:,}); {splits}"
    if view.settings.method == "v1":
        return "thresholds", f"{in_bits(view.thresholds)}: coarse below, the largest such cell wins"
    if info["threshold"] is None:
        return "threshold", "none, as no coarse cell fits"
    side = view.cell * 2 ** max(level for level, each in enumerate(view.pyramid) if each.size)
    return "threshold", f"{info['threshold']:.2f} bits = {alpha:g} × the mean of the {side} px cells"


def _legend_columns(width: float) -> int:
    """width: inches."""
    return 3 if width > 7 else 2


def _level_legend(axes: Axes, view: PatchView, columns: int) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    handles = []
    for level, count in enumerate(view.cells_of_levels):
        colour, strength = _colour(level)
        share = count * 4**level / view.all_tokens
        label = f"{view.cell * 2**level} px: {count:,} token{'' if count == 1 else 's'}, {share:.0%} of area"
        face = to_rgba(colour, strength + 0.15 if strength else 0)
        handles.append(Patch(facecolor=face, edgecolor=colour if strength else INK, linewidth=1.2, label=label))
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=columns, frameon=False, fontsize=9.5,
        borderaxespad=0, borderpad=0.2, handlelength=1.2, handletextpad=0.5, columnspacing=1.1, labelcolor=INK,
    )  # fmt: skip


def _colour(level: int) -> tuple[str, float]:
    return LEVEL_COLOURS[min(level, len(LEVEL_COLOURS) - 1)]
