"""Tokens of one image against alpha, for every method of choosing its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.reports.curves import FAINT, INK
from maskcap.reports.panels import heading
from maskcap.vision_tokens.patch_report import Curve, PatchView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHOD_COLOURS = {"budget": "#00a3a1", "v2": "#f2542d", "v1": "#5b5bd6"}


def draw_token_curves(axes: Axes, view: PatchView, curves: Sequence[Curve]) -> None:
    """Tokens over alpha, a line for each of the `token_curves` of the view, its own point marked."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    most = max((curve.alpha[-1] for curve in curves if curve.alpha[-1] is not None), default=1.0)
    for curve in curves:
        chosen = curve.method == view.settings.method
        style: dict[str, Any] = {"color": METHOD_COLOURS[curve.method], "linewidth": 2.6 if chosen else 1.5}
        if curve.alpha == [None]:
            axes.axhline(curve.tokens[0], linestyle=(0, (5, 2)), label=_label(curve), **style)
        else:
            axes.plot(np.array(curve.alpha, float), curve.tokens, label=_label(curve), **style)
    _mark(axes, view, most)
    axes.axhline(view.all_tokens, color=FAINT, linewidth=0.9, linestyle=":")
    axes.annotate(
        f"all {view.all_tokens:,}", (most, view.all_tokens), (0, 3), textcoords="offset points",
        va="bottom", ha="right", fontsize=9, color=FAINT,
    )  # fmt: skip
    axes.set_xlim(0, most)
    axes.set_ylim(0, 1.12 * view.all_tokens)
    axes.set_xlabel("alpha", fontsize=9, color=FAINT)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(labelsize=9, colors=INK, length=0)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure: Any = axes.figure
    inches = axes.get_position().height * figure.get_figheight()
    axes.legend(
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.4 / inches),
        borderaxespad=0,
    )
    heading(axes, "tokens of this image against alpha")


def _mark(axes: Axes, view: PatchView, most: float) -> None:
    """The chosen point, with its tokens; v1, which has no alpha, somewhere on its line."""
    x = most / 4 if view.alpha is None else view.alpha
    colour = METHOD_COLOURS[view.settings.method]
    point = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 2, "zorder": 5, "clip_on": False}
    axes.plot([x], [view.tokens], "o", markersize=11, **point)
    left = view.settings.method == "v2" and x > most / 4  # of the point, where a falling curve leaves room
    room = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    axes.annotate(
        f"{view.tokens:,} of {view.all_tokens:,}", (x, view.tokens), (-10 if left else 10, -6), va="top", bbox=room,
        textcoords="offset points", ha="right" if left else "left", fontsize=10, color=colour, weight="bold", zorder=6,
    )  # fmt: skip


def _label(curve: Curve) -> str:
    if curve.method == "budget":
        return "budget: alpha is the share of the tokens to spend"
    if curve.method == "v2":
        return "v2: threshold alpha × mean entropy; a larger alpha gives fewer tokens"
    return f"v1: no alpha; coarse below {in_bits(curve.thresholds)}"


def in_bits(thresholds: Sequence[float] | None) -> str:
    """Thresholds as people read them; a dash where there is one level, and none."""
    return ", ".join(f"{threshold:g}" for threshold in thresholds) + " bits" if thresholds else "–"
