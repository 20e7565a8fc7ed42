"""The curves of a run, from the metrics.csv that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskcap.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[np.ndarray, np.ndarray]  # steps and values, float64 (n,) each

INK, FAINT = "#1f2933", "#7b8794"
_PALETTE = ("#1f2933", "#00a3a1", "#f2542d", "#5b5bd6", "#d99a00", "#c2398b", "#3a8f3a", "#7b8794")
_MASKS = ("miou", "ciou", "precision_50")
_FURTHER_MASKS = ("prompt_miou", "cycle_miou", "cross_frame_miou")
_PSEUDO_CAPTIONS = ("entropy", "kl", "distinct", "length")  # as the loop `cycle` logs them
_CAPTIONS = ("caption_exact", "caption_f1", "caption_meteor", "caption_cider")


def read_metrics(metrics_csv: str | Path) -> dict[str, Series]:
    """Each column's steps and values, empty cells left out; `step` and `epoch` are no columns of their own.

    Raises DataError when the file is missing, has no `step` column, or holds a cell that is no number.
    """
    path = Path(metrics_csv)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a run writes it with logger=csv")
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ()):
            raise DataError(f"{path}: has no column `step`; is this the metrics.csv of Lightning's CSVLogger?")
        for row in reader:
            for name, cell in row.items():
                if cell and name not in ("step", "epoch"):
                    try:
                        points.setdefault(name, []).append((float(row["step"]), float(cell)))
                    except (TypeError, ValueError) as error:
                        raise DataError(f"{path}, line {reader.line_num}: `{name}` is not a number: {error}") from error
    return {name: (np.array(values)[:, 0], np.array(values)[:, 1]) for name, values in points.items()}


def curves_figure(metrics_csv: str | Path) -> Figure:
    """Training losses (faint as logged, bold smoothed), mask scores, caption scores, and what the cycle logs of
    its pseudo captions, over the optimiser's steps.

    Panels without data are left out. To share an axis, CIDEr and the pseudo captions' length are drawn divided by 10.
    Raises as `read_metrics`.
    """
    from matplotlib.figure import Figure

    series = read_metrics(metrics_csv)
    panels = [
        (title, names)
        for title, names in (
            ("training losses", _losses(series)),
            ("masks, validation", _scores(series, _MASKS)),
            ("captions, validation", _scores(series, _CAPTIONS)),
            ("pseudo captions, training", _pseudo_captions(series)),
        )
        if names
    ]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.4), dpi=110, facecolor="white", layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", color=FAINT)
    for position, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position)
        _style(axes, title)
        for index, name in enumerate(names):
            _curve(axes, name, series[name], _PALETTE[index % len(_PALETTE)])
        if title == "training losses":
            _loss_scale(axes, [series[name][1] for name in names])
        elif title == "pseudo captions, training":
            axes.set_ylim(bottom=0)
        else:
            axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _losses(series: dict[str, Series]) -> list[str]:
    """`train/loss` first, then `train/<loop>/loss`; of `loss`, `loss_step`, `loss_epoch` the first that there is."""
    chosen: dict[str, str] = {}
    for suffix in ("", "_step", "_epoch"):
        for name in series:
            if name.startswith("train/") and name.endswith("/loss" + suffix):
                chosen.setdefault(name.removesuffix(suffix), name)
    return [chosen[stem] for stem in sorted(chosen, key=lambda stem: (stem != "train/loss", stem))]


def _scores(series: dict[str, Series], main: tuple[str, ...]) -> list[str]:
    """The main scores of the set called "main", then those of other loops and sets (`val/miou_content`)."""
    names = [f"val/{score}" for score in main]
    starts = tuple(f"val/{score}" for score in (f"{main[0]}_", *(_FURTHER_MASKS if main is _MASKS else ())))
    further = [name for name in sorted(series) if name.startswith(starts)]
    return [name for name in names + further if name in series]


def _pseudo_captions(series: dict[str, Series]) -> list[str]:
    """In their own order; without `kl` where it is 0 throughout, as it is without a reference."""
    found = []
    for quantity in _PSEUDO_CAPTIONS:
        names = [f"train/cycle/{quantity}{suffix}" for suffix in ("", "_step", "_epoch")]
        logged = [name for name in names if name in series]
        if logged and (quantity != "kl" or series[logged[0]][1].any()):
            found.append(logged[0])
    return found


def _curve(axes: Axes, name: str, points: Series, colour: str) -> None:
    steps, values = points
    if name.startswith("train/"):
        label = name.removeprefix("train/").replace("/loss", "")
        label = label.rpartition("/")[2]
        if name.startswith("train/cycle/length"):
            values, label = values / 10, f"{label} / 10"
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.6, label=label)
        return
    label = name.removeprefix("val/").removeprefix("caption_")
    if name.startswith("val/caption_cider"):
        values, label = values / 10, f"{label} / 10"
    axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=f"{label}  {values[-1]:.3f}")


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average over about a fiftieth of the curve, bias corrected; NaN and infinity are left out."""
    decay = 1 - 1 / max(1.0, len(values) / 50)
    smooth, total, weight = np.empty(len(values)), 0.0, 0.0
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        smooth[index] = total / weight if weight else math.nan
    return smooth


def _loss_scale(axes: Axes, values: list[np.ndarray]) -> None:
    """Logarithmic where the losses are positive and span more than a factor of ten."""
    every = np.concatenate(values)
    every = every[np.isfinite(every)]
    if len(every) and every.min() > 0 and every.max() > 10 * every.min():
        axes.set_yscale("log")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, weight="bold")
    axes.set_xlabel("step", fontsize=8, color=FAINT)
    axes.tick_params(labelsize=8, colors=FAINT, length=0, which="both")
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
