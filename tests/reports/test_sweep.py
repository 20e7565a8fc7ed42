"""The sweep's picture: what is drawn, and where memory ran out."""

from __future__ import annotations

from typing import Any

import pytest

from maskcap.reports.figures import figure_to_array
from maskcap.reports.latency_tables import SCORES
from maskcap.reports.sweep import sweep_figure
from maskcap.vision_tokens.latency import COMPONENTS


def row(name: str, tokens: float | None, miou: float = 0.5, total: float = 20.0, note: str = "") -> dict[str, Any]:
    ms = dict.fromkeys(COMPONENTS, 1.0) | {"total": total}
    known = {"scores": {"miou": miou, "other": 3.0}, "ms": ms, "tokens": tokens}
    return {"name": name, "note": note} | (known if tokens is not None else {"scores": {}, "ms": None, "tokens": None})


def test_scores_stand_at_their_tokens_and_bars_add_up_to_the_total():
    rows = [row("4 crops", 832.0, 0.75), row("1 crop", 512.0, 0.25), row("2 crops", 512.0, 0.5)]
    figure = sweep_figure(rows, 4, "a device")
    left, right = figure.axes
    (line,) = [each for each in left.get_lines() if each.get_label() == "miou"]
    assert line.get_xydata().tolist() == [[512, 0.25], [512, 0.5], [832, 0.75]]  # type: ignore[union-attr]
    assert [text.get_text() for text in left.texts] == ["1 crop, 2 crops", "4 crops"]
    heights = {container.get_label(): [bar.get_height() for bar in container] for container in right.containers}  # type: ignore[union-attr]
    assert heights["decode 4 tokens"] == [3.0, 3.0, 3.0]
    assert [sum(each) for each in zip(*heights.values(), strict=True)] == pytest.approx([20.0] * 3)
    assert [text.get_text() for text in right.texts] == ["20 ms"] * 3
    assert figure_to_array(figure).shape[2] == 3


def test_all_scores_are_drawn():
    every = row("1 crop", 512.0) | {"scores": dict.fromkeys(SCORES, 0.5)}
    left, _ = sweep_figure([every], 4, "a device").axes
    assert {"cycle_miou", "cross_frame_miou"} <= {str(line.get_label()) for line in left.get_lines()}
    legend = left.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(SCORES)


def test_settings_without_memory_are_named():
    rows = [row("1 crop", 512.0), row("9 crops", None, note="memory ran out with one image a batch: x")]
    figure = sweep_figure(rows, 4, "a device")
    assert figure.get_supxlabel() == "9 crops: memory ran out with one image a batch: x"
    (text,) = sweep_figure(rows[1:], 4, "a device").texts
    assert text.get_text() == "memory ran out in every setting"
