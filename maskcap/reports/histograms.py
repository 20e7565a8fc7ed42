"""The picture of a data check: sizes, shapes, regions, masks and words of every source, made without pyplot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskcap.data.checks.histograms import EXACT
from maskcap.data.checks.statistics import merged
from maskcap.reports.curves import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from maskcap.data.checks.histograms import Histogram
    from maskcap.data.checks.statistics import Statistics

PALETTE = ("#00a3a1", "#f2542d", "#5b5bd6", "#d99a00", "#c2398b", "#3a8f3a", "#7b8794", "#1f2933")
_COLUMNS = 4
_RATIOS = ("1:8", "1:4", "1:2", "2:3", "1:1", "3:2", "2:1", "4:1", "8:1")
_NEAR_SQUARE = ("3:4", "4:3", "16:9", "9:16")  # where there is room
_REASONS = 8  # bars; the rest is one more bar


@dataclass(frozen=True)
class _Panel:
    """whole: the values are whole numbers. log: of the horizontal axis, else it is linear up to 32 and log beyond."""

    name: str
    title: str
    unit: str
    counted: str
    whole: bool = False
    log: bool = True


_PANELS = (
    _Panel("width", "image width", "pixels", "images", whole=True),
    _Panel("height", "image height", "pixels", "images", whole=True),
    _Panel("aspect_ratio", "aspect ratio", "width : height", "images"),
    _Panel("regions_per_record", "regions of an image", "regions", "records", whole=True, log=False),
    _Panel("mask_area", "mask area", "share of the image", "masks"),
    _Panel("captions_per_region", "captions of a region", "captions", "regions", whole=True, log=False),
    _Panel("caption_words", "caption length", "words", "captions", whole=True, log=False),
)
_FURTHER = (  # drawn where there are any
    _Panel("turns_per_record", "turns of a conversation", "turns", "records", whole=True, log=False),
    _Panel("answer_words", "answer length", "words", "answers", whole=True, log=False),
    _Panel("phrases_per_answer", "phrases with a mask", "phrases", "answers", whole=True, log=False),
    _Panel("frames_per_record", "frames of a video", "frames", "videos", whole=True, log=False),
)


def histograms_figure(sources: Mapping[str, Statistics], grid: int = 16) -> Figure:
    """A panel for each histogram, its sources ("set/name" → statistics) stacked in colours, and one for the reasons.

    grid: cells a side of the token grid; one cell's share of the image is marked among the mask areas.
    """
    from matplotlib.figure import Figure

    whole = merged(sources.values())
    further = [panel for panel in _FURTHER if whole.histograms[panel.name].count]
    panels = [*_PANELS, *further]
    rows = -(-(len(panels) + 1) // _COLUMNS)
    figure = Figure(figsize=(4.1 * _COLUMNS, 3.4 * rows + 0.5), dpi=110, facecolor="white", layout="constrained")
    shown = dict(sources) if len(sources) <= len(PALETTE) else {f"all {len(sources)} sources": whole}
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        _style(axes, panel.title)
        _draw(axes, panel, whole.histograms[panel.name], {n: s.histograms[panel.name] for n, s in shown.items()})
        if panel.name == "mask_area":
            _mark_cell(axes, whole, grid)
    _draw_reasons(figure.add_subplot(rows, _COLUMNS, len(panels) + 1), whole)
    if len(shown) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _draw(axes: Axes, panel: _Panel, whole: Histogram, parts: Mapping[str, Histogram]) -> None:
    axes.set_xlabel(panel.unit, fontsize=8, color=FAINT)
    axes.set_ylabel(panel.counted, fontsize=8, color=FAINT)
    if whole.count == 0:
        _hide(axes)
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        for colour, name in zip(PALETTE, parts, strict=False):
            axes.bar([], [], color=colour, label=name)
        return
    filled = np.flatnonzero(whole.counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 1)
    edges = whole.edges[first : last + 1]
    if panel.whole and not panel.log:
        edges = edges - 0.5  # the bar of a whole number stands over it
    widths = np.diff(edges)
    wide = panel.whole and not panel.log and widths.max() > 1
    if wide:
        axes.set_ylabel(f"{panel.counted} for each number", fontsize=8, color=FAINT)
    style = {"align": "edge", "linewidth": 0.4 if len(widths) < 40 else 0, "edgecolor": "white"}
    below = np.zeros(last - first)
    for colour, (name, part) in zip(PALETTE, parts.items(), strict=False):
        heights = part.counts[first:last] / (widths if wide else 1)
        axes.bar(edges[:-1], heights, widths, bottom=below, color=colour, label=name, **style)
        below = below + heights
    if panel.log:
        _log_axis(axes, edges, ratios=panel.name == "aspect_ratio")
    else:
        _count_axis(axes, edges)
    axes.set_ylim(0, 1.18 * max(1, below.max()))
    axes.text(
        0.99,
        0.98,
        _summary(whole, panel.whole),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=7.5,
        color=INK,
    )


def _summary(histogram: Histogram, whole: bool) -> str:
    """How many there are, their median (or the bin that it is in), least and most, and how many the axis leaves out."""
    low, high = histogram.median_bin() or (0.0, 0.0)
    low, high = max(low, histogram.least), min(high, histogram.most)
    exact = low == high or whole and high - low <= 1
    median = _short(low) if exact else f"{_short(low)} to {_short(high)}"
    text = (
        f"{histogram.count:,} in all, median {median}\nleast {_short(histogram.least)}, most {_short(histogram.most)}"
    )
    beyond = histogram.below + histogram.above
    return f"{text}\n{beyond:,} beyond this axis" if beyond else text


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _log_axis(axes: Axes, edges: np.ndarray, ratios: bool = False) -> None:
    """ratios: ticks at 3:2, 1:1 and the like."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = float(edges[0]), float(edges[-1])
    margin = max((high / low) ** 0.04, (3 * low / high) ** 0.5)  # a single bin is a bar, not a wall
    low, high = low / margin, high * margin
    axes.set_xlim(low, high)
    if ratios:
        names = _RATIOS if high / low > 5 else _RATIOS + _NEAR_SQUARE
        shares = {name: int(name.partition(":")[0]) / int(name.partition(":")[2]) for name in names}
        inside = {name: share for name, share in shares.items() if low <= share <= high}
        axes.set_xticks(list(inside.values()), list(inside), minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        return
    if high / low > 100:
        axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    else:
        axes.xaxis.set_major_locator(FixedLocator(_round_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}" if value >= 1e-4 else f"{value:.0e}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _count_axis(axes: Axes, edges: np.ndarray) -> None:
    """Linear, and logarithmic beyond what has a bin each, so that all bars look equally wide."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = min(-0.6, float(edges[0])), max(float(edges[-1]), 3.5)
    if high <= EXACT + 1:
        axes.set_xlim(low, high + 0.1)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return
    slope = 1 / np.log(10)  # of the logarithm at the threshold
    axes.set_xscale("symlog", linthresh=EXACT, linscale=0.9 * slope)
    axes.set_xlim(low, high * 1.02)
    ticks = [0, 10, 20, 32, *(digit * 10**power for power in range(1, 7) for digit in (1, 2, 5))]
    axes.xaxis.set_major_locator(FixedLocator(sorted({tick for tick in ticks if tick <= 32 or 50 <= tick <= high})))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to eight numbers that are easy to read between low and high."""
    for digits in (
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        np.arange(1, 10, 0.5),
        np.arange(1, 10, 0.1),
        np.arange(1, 10, 0.02),
    ):
        tens = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = np.outer(tens, digits).ravel()
        inside = ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)]
        if inside.size >= 4:
            return inside[:: -(-inside.size // 7)].round(9).tolist()
    return [low, high]


def _mark_cell(axes: Axes, whole: Statistics, grid: int) -> None:
    """Where one cell of the token grid lies, and how many masks meet none of its samples."""
    share, vanish = 1 / grid**2, whole.counts["vanish_on_grid"]
    low, high = axes.get_xlim()
    if low < share < high:
        axes.axvline(share, color=INK, linewidth=1, linestyle="dashed")
        axes.text(share, 1.0, f" 1 of {grid}×{grid} cells", transform=axes.get_xaxis_transform(), fontsize=7, color=INK,
                  ha="left", va="bottom")  # fmt: skip
    axes.set_xlabel(f"share of the image; {vanish:,} vanish on the {grid}×{grid} grid", fontsize=8, color=FAINT)


def _draw_reasons(axes: Axes, whole: Statistics) -> None:
    _style(axes, "problems by reason")
    reasons = whole.reasons.most_common()
    if not reasons:
        _hide(axes)
        axes.text(0.5, 0.5, "no problems", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        return
    bars = reasons[:_REASONS]
    if rest := sum(count for _, count in reasons[_REASONS:]):
        bars.append((f"{len(reasons) - _REASONS} other reasons", rest))
    drawn = axes.barh(range(len(bars)), [count for _, count in bars], color="#c0392b", height=0.65)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(count for _, count in bars))
    axes.set_xlabel("problems", fontsize=8, color=FAINT)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK)
    _whole_ticks(axes.xaxis)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, weight="bold")
    axes.tick_params(labelsize=8, colors=FAINT, length=0, which="both")
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    _whole_ticks(axes.yaxis)


def _hide(axes: Axes) -> None:
    """Leave the title alone."""
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")


def _whole_ticks(axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
