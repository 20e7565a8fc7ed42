"""Pictures of a data set's tilings: how many images take each, how lists of sizes fit, and some of the images."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.data.record import ImageRef
from maskcap.errors import DataError
from maskcap.reports.crops import draw_crops
from maskcap.reports.curves import FAINT, INK
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.survey import Survey, weighted_mean
from maskcap.vision_tokens.tiling import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_KEPT, _SLOTS, _BARS = "#00a3a1", "#d99a00", "#5b5bd6"
_TILINGS = 16  # bars; the rest is one more bar
_RATIOS = ("1:8", "1:4", "1:3", "1:2", "2:3", "1:1", "3:2", "2:1", "3:1", "4:1", "8:1")
_COLUMNS, _THUMB = 4, 3.4  # of the contact sheet, inches


def tilings_figure(found: Survey) -> Figure:
    """Aspect ratios, tilings, tokens, and how well each entry of the list fits the images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 9.4), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)  # type: ignore[union-attr]
    figure.suptitle(
        f"{found.images:,} images of {found.sizes:,} size{'s' if found.sizes > 1 else ''}",
        x=0.01,
        ha="left",
        fontsize=14,
        weight="bold",
        color=INK,
    )
    figure.supxlabel(
        "aspect error: mean |ln| of an image's aspect ratio over its canvas's;  padding: mean share of the canvas",
        x=0.01, ha="left", fontsize=9, color=FAINT,
    )  # fmt: skip
    _draw_aspects(figure.add_subplot(2, 2, 1), found)
    _draw_tilings(figure.add_subplot(2, 2, 2), found)
    _draw_tokens(figure.add_subplot(2, 2, 3), found)
    _draw_list(figure.add_subplot(2, 2, 4), found)
    return figure


def samples_figure(
    images: Iterable[tuple[int, ImageRef]], count: int, rule: TilingRule, global_view: bool = True
) -> Figure:
    """A contact sheet of the first `count` images that can be read, fewest crops first, each with its crops.

    images: (crops, image); bad ones are passed over, and named in the log.
    """
    from matplotlib.figure import Figure

    read = sorted(_read(images, count), key=lambda item: item[0])
    columns = min(_COLUMNS, max(1, len(read)))
    rows = -(-max(1, len(read)) // columns)
    figure = Figure(figsize=(columns * _THUMB, rows * (_THUMB + 0.2) + 0.4), dpi=110, facecolor="white")
    if not read:
        figure.text(0.5, 0.5, "no image can be read", ha="center", va="center", color=FAINT)
    width, height = figure.get_size_inches()
    legend = "height × width; shaded: seen by 2 crops (yellow), 3 (orange), 4 (red), more (violet); grey: padding"
    figure.text(0.1 / width, 0.15 / height, legend, fontsize=10, color=FAINT)
    for index, (_, ref, image) in enumerate(read):
        row, column = divmod(index, columns)
        left, top = column * _THUMB + 0.1, height - 0.1 - row * (_THUMB + 0.2)
        side = _THUMB - 0.45
        axes = figure.add_axes((left / width, (top - 0.45 - side) / height, (_THUMB - 0.2) / width, side / height))
        tiling = rule.choose(ref.height, ref.width)
        place = fit(ref.height, ref.width, rule.geometry.canvas(*tiling))
        draw_crops(axes, image, tiling, place, rule.geometry, label=math.prod(tiling) > 1)
        kept = rule.geometry.kept(*tiling, global_view)
        axes.set_title(
            f"{tiling[0]} × {tiling[1]}, {kept:,} tokens\n{ref.height} × {ref.width} px",
            loc="left",
            fontsize=10,
            color=INK,
        )
    return figure


def _read(images: Iterable[tuple[int, ImageRef]], count: int) -> list[tuple[int, ImageRef, np.ndarray]]:
    """(crops, image, its pixels as large as its annotation says)."""
    from PIL import Image

    from maskcap.data.images import read_image

    read: list[tuple[int, ImageRef, np.ndarray]] = []
    for crops, ref in images:
        if len(read) == count:
            break
        try:
            pixels = read_image(ref)
        except DataError as error:
            log.warning("left out of the samples: %s", error)
            continue
        if pixels.shape[:2] != (ref.height, ref.width):  # shards may hold a copy of another size
            pixels = np.asarray(Image.fromarray(pixels).resize((ref.width, ref.height)))
        read.append((crops, ref, pixels))
    return read


def _draw_aspects(axes: Axes, found: Survey) -> None:
    from matplotlib.ticker import NullLocator

    histogram = found.aspect
    _style(axes, "aspect ratio", "width : height", "images")
    filled = np.flatnonzero(histogram.counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, histogram.counts.size)
    edges, counts = histogram.edges[first : last + 1], histogram.counts[first:last]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_BARS, edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    low, high = min(edges[0], 0.45), max(edges[-1], 2.2)
    axes.set_xlim(low / 1.05, high * 1.05)
    ratios = {name: int(name[: name.index(":")]) / int(name[name.index(":") + 1 :]) for name in _RATIOS}
    shown = {name: ratio for name, ratio in ratios.items() if low <= ratio <= high}
    axes.set_xticks(list(shown.values()), list(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    beyond = histogram.below + histogram.above
    text = (
        f"least {histogram.least:.3g}, mean {histogram.total / max(1, histogram.count):.3g}, most {histogram.most:.3g}"
    )
    _note(axes, text + (f"\n{beyond:,} beyond the axis" if beyond else ""))
    axes.set_ylim(0, 1.2 * max(1, counts.max(initial=0)))


def _draw_tilings(axes: Axes, found: Survey) -> None:
    _style(axes, "tilings, rows × columns", "", "images")
    most = sorted(found.tilings, key=lambda tiling: -found.tilings[tiling])[:_TILINGS]
    bars = {f"{tiling[0]}×{tiling[1]}": images for tiling, images in found.tilings.items() if tiling in most}
    if rest := len(found.tilings) - len(most):
        bars[f"{rest} others"] = found.images - sum(bars.values())
    _bars(axes, bars, found.images, _BARS)
    _note(axes, f"as configured: aspect error {found.fit.aspect_error:.3f}, padding {found.fit.padding:.1%}")


def _draw_tokens(axes: Axes, found: Survey) -> None:
    """Images by tokens: what the encoder computes and what the language model reads."""
    _style(axes, "tokens of an image", "tokens", "images")
    parts = (("slots: computed by the vision encoder", found.slots, _SLOTS), ("kept: read by the language model",
             found.kept, _KEPT))  # fmt: skip
    values = sorted({value(*tiling) for _, value, _ in parts for tiling in found.tilings})
    span = (values[-1] - values[0]) or values[0]
    gaps = np.diff(values)
    width = max(span / 150, min(span / 60, gaps.min(initial=span) / 2.2))
    highest = 1
    for side, (label, value, colour) in zip((-0.5, 0.5), parts, strict=True):
        counts: dict[int, int] = {}
        for tiling, images in found.tilings.items():
            counts[value(*tiling)] = counts.get(value(*tiling), 0) + images
        mean: Any = weighted_mean(found.tilings, value)
        places = [tokens + side * width for tokens in counts]
        axes.bar(places, list(counts.values()), width, color=colour, label=f"{label}; mean {mean:,.0f}")
        axes.axvline(mean, ymax=0.8, color=colour, linestyle="dashed", linewidth=1.2)
        highest = max(highest, *counts.values())
    axes.set_xlim(max(0, values[0] - 0.08 * span), values[-1] + 0.08 * span)
    axes.set_ylim(0, 1.35 * highest)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)


def _draw_list(axes: Axes, found: Survey) -> None:
    _style(axes, f"images that take each of {found.listed}", "share of the images, %", "")
    unit = "" if found.listed == "image_sizes" else " tokens"
    names = [f"{e.entry}{unit}\n{e.crops} crop{'s' if e.crops > 1 else ''}" for e in found.entries]
    shares = [100 * entry.fit.share for entry in found.entries]
    drawn = axes.barh(range(len(names)), shares, height=0.62, color=_KEPT)
    texts = [
        f"{100 * fit.share:.1f} %\naspect error {fit.aspect_error:.3f}, padding {fit.padding:.1%}"
        if fit.images
        else "none"
        for fit in (entry.fit for entry in found.entries)
    ]
    axes.bar_label(drawn, texts, padding=5, fontsize=9, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -1.1)
    widest = max(shares)
    axes.set_xlim(0, 1.7 * widest)
    step = 20 if widest > 40 else 10
    axes.set_xticks([tick for tick in range(0, 101, step) if tick <= widest + step / 2])
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK)
    _note(axes, f"all of them: aspect error {found.list_fit.aspect_error:.3f}, padding {found.list_fit.padding:.1%}")


def _bars(axes: Axes, bars: dict[str, int], whole: int, colour: str) -> None:
    drawn = axes.bar(range(len(bars)), list(bars.values()), width=0.66, color=colour)
    axes.set_xticks(range(len(bars)), list(bars))
    axes.bar_label(drawn, [f"{100 * count / whole:.0f} %" for count in bars.values()], padding=2, fontsize=8, color=INK)
    axes.set_xlim(-0.7, max(len(bars), 3) - 0.3)
    axes.set_ylim(0, 1.2 * max(bars.values()))
    axes.grid(False, axis="x")


def _note(axes: Axes, text: str) -> None:
    axes.text(0.99, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=9, color=INK)


def _style(axes: Axes, title: str, across: str, up: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.set_xlabel(across, fontsize=9, color=FAINT)
    axes.set_ylabel(up, fontsize=9, color=FAINT)
    axes.tick_params(labelsize=9, colors=FAINT, length=0, which="both")
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for spine in axes.spines.values():
        spine.set_visible(False)
