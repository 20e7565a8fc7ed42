"""The picture of `maskcap tokens sweep`: accuracy and latency against tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.reports.curves import FAINT, INK
from maskcap.reports.latency_tables import NAMES, SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("#00a3a1", "#f2542d", "#5b5bd6", "#d99a00", "#c2398b", "#3a8f3a", "#1f2933", "#7b8794")
_PARTS = ("#b8c4ce", "#00a3a1", "#7fd1cf", "#5b5bd6", "#a9a9ee", "#d99a00", "#f2cf7a", "#e4e7eb")
_OTHER = "everything else"


def sweep_figure(settings: Sequence[Mapping[str, Any]], new_tokens: int, device: str) -> Figure:
    """Scores over tokens an image on the left, stacked latencies of each setting on the right.

    settings: as `sweep.json` holds them; those for which memory ran out are named below.
    """
    from matplotlib.figure import Figure

    measured = sorted((each for each in settings if each["ms"] is not None), key=lambda each: each["tokens"])
    figure = Figure(figsize=(max(13, 6 + 1.3 * len(measured)), 5.4), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)  # type: ignore[union-attr]
    if not measured:
        figure.text(0.5, 0.5, "memory ran out in every setting", ha="center", va="center", color=FAINT)
        return figure
    left, right = figure.subplots(1, 2)
    _draw_scores(left, measured)
    _draw_latencies(right, measured, new_tokens, device)
    notes = [f"{each['name']}: {each['note']}" for each in settings if each["note"]]
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8, color=FAINT)
    return figure


def _draw_scores(axes: Axes, measured: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in SCORES if all(name in each["scores"] for each in measured)]
    tokens = np.array([each["tokens"] for each in measured])
    for name, colour in zip(names, _LINES, strict=False):
        values = [each["scores"][name] for each in measured]
        style = ":" if name.endswith("ciou") else "-"  # it lies close to miou
        axes.plot(tokens, values, style, color=colour, marker="o", markersize=5, linewidth=1.8, label=name)
    _title(axes, "Accuracy on the validation set", pad=44)
    axes.set_xlabel("tokens an image that the language model reads (mean)", fontsize=9, color=INK)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(*_around(tokens))
    _name_settings(axes, measured)
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(names)
    )


def _name_settings(axes: Axes, measured: Sequence[Mapping[str, Any]]) -> None:
    """Each number of tokens is named by its settings, above the axes."""
    named: dict[float, list[str]] = {}
    for each in measured:
        named.setdefault(each["tokens"], []).append(each["name"])
    for tokens, names in named.items():
        axes.axvline(tokens, color="#e4e7eb", linewidth=1, zorder=0)
        axes.annotate(
            ", ".join(names), (tokens, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", rotation=35, ha="left", va="bottom", fontsize=8, color=FAINT,
        )  # fmt: skip


def _draw_latencies(axes: Axes, measured: Sequence[Mapping[str, Any]], new_tokens: int, device: str) -> None:
    places = np.arange(len(measured))
    base = np.zeros(len(measured))
    totals = np.array([each["ms"]["total"] for each in measured])
    parts = {label: [each["ms"][name] for each in measured] for name, label in NAMES.items()}
    decode = NAMES["decode"]
    parts[decode] = [ms * (new_tokens - 1) for ms in parts[decode]]  # the first token is the prefill's
    parts[_OTHER] = list(np.maximum(0, totals - np.sum(list(parts.values()), axis=0)))
    for (label, values), colour in zip(parts.items(), _PARTS, strict=True):
        shown = f"decode {new_tokens} tokens" if label == decode else label
        axes.bar(places, values, bottom=base, color=colour, width=0.62, label=shown, edgecolor="white", linewidth=0.6)
        base += np.array(values)
    for place, top, total in zip(places, base, totals, strict=True):
        axes.text(float(place), top, f"{total:.0f} ms", ha="center", va="bottom", fontsize=9, color=INK)
    _title(axes, f"Latency of one image, ms ({device})")
    labels = [f"{each['name']}\n{each['tokens']:,.0f} tokens" for each in measured]
    axes.set_xticks(places, labels)
    axes.set_ylim(0, base.max() * 1.12)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], names[::-1], frameon=False, fontsize=9, labelcolor=INK, loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip


def _around(values: np.ndarray) -> tuple[float, float]:
    room = max(0.06 * (values.max() - values.min()), 0.02 * values.max())
    return values.min() - room, values.max() + room


def _title(axes: Axes, title: str, pad: float = 12) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold", pad=pad)
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
