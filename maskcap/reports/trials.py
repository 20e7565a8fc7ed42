"""The plots of a sweep's trials: what matters, which settings go with which values, how the search went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.reports.curves import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from maskcap.sweeps.results import TrialRow

_ACCENT, _PALE = "#00a3a1", "#b8c4ce"
_MARKS = {"finished": ("o", _ACCENT), "pruned": ("x", "#d99a00")}
_COLOURS = "viridis"


def write_plots(
    rows: Sequence[TrialRow],
    folder: Path,
    metric: str,
    *,
    maximize: bool,
    importances: Mapping[str, float],
    why_not: str = "",
) -> list[Path]:
    """`importance.png`, `parallel_coordinates.png` and `history.png`. why_not: in place of absent importances."""
    figures = {
        "importance.png": importance_figure(importances, metric, why_not),
        "parallel_coordinates.png": parallel_figure(rows, metric, maximize=maximize),
        "history.png": history_figure(rows, metric, maximize=maximize),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def importance_figure(importances: Mapping[str, float], metric: str, why_not: str = "") -> Figure:
    """A bar for each parameter, largest first; shares of 1."""
    figure, axes = _figure(7.2, 1.4 + 0.42 * max(len(importances), 1))
    _style(axes, f"share in how {metric} varies over the finished trials")
    if not importances:
        axes.set_axis_off()
        axes.text(0.5, 0.5, why_not, ha="center", va="center", color=FAINT, transform=axes.transAxes)
        return figure
    names = list(importances)[::-1]
    values = [importances[name] for name in names]
    axes.barh(names, values, color=_ACCENT, height=0.6)
    for place, value in enumerate(values):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, max(values) * 1.12)
    axes.grid(axis="y", visible=False)
    return figure


def history_figure(rows: Sequence[TrialRow], metric: str, *, maximize: bool) -> Figure:
    """The value of each trial over its number, failed ones at the foot, and the best so far as a line."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(7.2, 3.8)
    _style(axes, f"{metric} of the trials")
    for state, (mark, colour) in _MARKS.items():
        there = [row for row in rows if row.state == state and row.value is not None]
        if there:
            axes.plot([r.number for r in there], [r.value for r in there], mark, color=colour, label=state)  # type: ignore[arg-type]
    lost = [row.number for row in rows if row.state in ("failed", "interrupted")]
    if lost:
        axes.plot(lost, [0.03] * len(lost), "|", color="#f2542d", transform=axes.get_xaxis_transform(),
                  markersize=10, label="failed or interrupted")  # fmt: skip
    finished = [row for row in rows if row.state == "finished" and row.value is not None]
    if finished:
        best = (np.maximum if maximize else np.minimum).accumulate(
            np.array([row.value for row in finished], dtype=float)
        )
        axes.step([row.number for row in finished], best, where="post", color=INK, linewidth=1.2, label="best so far")
    axes.set_xlabel("trial", fontsize=9, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def parallel_figure(rows: Sequence[TrialRow], metric: str, *, maximize: bool) -> Figure:
    """An axis for each parameter and the metric on the right, a line for each trial with a value, coloured by it.

    Numbers lie between their smallest and largest value, logarithmically over a factor of more than 10; words by name.
    """
    from matplotlib import colormaps

    shown = [row for row in rows if row.value is not None]
    names = list(dict.fromkeys(name for row in shown for name in row.parameters))
    figure, axes = _figure(2.4 + 1.9 * (len(names) + 1), 4.2)
    if not shown:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no trial has a value", ha="center", va="center", color=FAINT)
        return figure
    columns = {name: [row.parameters.get(name) for row in shown] for name in names}
    columns[metric] = [row.value for row in shown]
    heights = np.stack([_place(axes, i, name, values) for i, (name, values) in enumerate(columns.items())])
    goodness = heights[-1] if maximize else 1 - heights[-1]
    for trial in np.argsort(goodness, kind="stable"):  # the best on top
        pruned = shown[trial].state == "pruned"
        axes.plot(range(len(columns)), heights[:, trial], color=colormaps[_COLOURS](float(goodness[trial])),
                  linewidth=1.6, alpha=0.85, linestyle=":" if pruned else "-")  # fmt: skip
    axes.set_xlim(-0.4, len(columns) - 0.7)
    axes.set_ylim(-0.08, 1.16)
    axes.set_title("trials: bright is better, dotted was pruned", loc="left", fontsize=10, color=INK, weight="bold")
    axes.set_axis_off()
    return figure


def _place(axes: Axes, position: int, name: str, values: Sequence[Any]) -> np.ndarray:
    """Draws one axis with its labels; returns the values' heights in 0…1, float64 (n,)."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if numbers:
        known = np.array(values, dtype=float)
        low, high = known.min(), known.max()
        spread = np.log(known) if low > 0 and high > 10 * low else known
        width = spread.max() - spread.min()
        heights = (spread - spread.min()) / width if width else np.full(len(known), 0.5)
        labels = {0.0: f"{low:.3g}", 1.0: f"{high:.3g}"} if width else {0.5: f"{low:.3g}"}
    else:
        words = sorted({str(value) for value in values})
        at = {word: i / (len(words) - 1) if len(words) > 1 else 0.5 for i, word in enumerate(words)}
        heights = np.array([at[str(value)] for value in values])
        labels = {height: word for word, height in at.items()}
    axes.plot([position, position], [0, 1], color=_PALE, linewidth=1, zorder=0)
    axes.text(position, 1.07, name, ha="center", va="bottom", fontsize=9, color=INK)
    for height, label in labels.items():
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
        axes.text(position - 0.03, height, label, ha="right", va="center", fontsize=8, color=INK, bbox=box)
    return heights


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, weight="bold")
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
