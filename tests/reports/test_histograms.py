"""The picture of a data check draws what the histograms hold, for any sources and for none."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.data.bad_samples import BadSample
from maskcap.data.checks.statistics import Statistics
from maskcap.reports.figures import figure_to_array
from maskcap.reports.histograms import PALETTE, histograms_figure


@pytest.fixture
def statistics() -> Statistics:
    made, rng = Statistics(), np.random.default_rng(0)
    made.histograms["width"].add([640, 640, 1500])
    made.histograms["height"].add([480, 427, 1500])
    made.histograms["aspect_ratio"].add([640 / 480, 640 / 427, 1, 100])
    made.histograms["mask_area"].add([1e-4, 0.01, 1.0])
    made.histograms["regions_per_record"].add(rng.integers(1, 300, 500))
    made.histograms["captions_per_region"].add([1, 2, 2])
    made.histograms["caption_words"].add([3])
    made.counts["vanish_on_grid"] = 2
    for number in range(12):
        made.note(BadSample("a/0", f"reason {min(number, 9)}", "…"))
    return made


def texts(axes) -> str:
    return "\n".join([axes.get_title(loc="left"), axes.get_xlabel(), *(text.get_text() for text in axes.texts)])


def test_bars_are_the_counts(statistics):
    figure = histograms_figure({"train/a": statistics, "val/b": statistics}, grid=8)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(panels) == {
        "image width", "image height", "aspect ratio", "regions of an image", "mask area", "captions of a region",
        "caption length", "problems by reason",
    }  # fmt: skip
    captions = panels["captions of a region"]
    bars = sorted((round(bar.get_x() + 0.5), bar.get_height(), bar.get_y()) for bar in captions.patches)
    assert bars == [(1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 2)]  # two sources, stacked
    assert "6 in all, median 2" in texts(captions)
    assert "least 640, most 1,500" in texts(panels["image width"])
    assert "2 beyond this axis" in texts(panels["aspect ratio"]) and "8 in all" in texts(panels["aspect ratio"])
    assert "1 of 8×8 cells" in texts(panels["mask area"]) and "4 vanish on the 8×8 grid" in texts(panels["mask area"])
    regions = panels["regions of an image"]
    area = sum(bar.get_height() * bar.get_width() for bar in regions.patches)
    assert area == pytest.approx(1000) and regions.get_ylabel() == "records for each number"
    reasons = panels["problems by reason"]
    assert [label.get_text() for label in reasons.get_yticklabels()][0] == "reason 9"
    assert [label.get_text() for label in reasons.get_yticklabels()][-1] == "2 other reasons"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train/a", "val/b"]
    pixels = figure_to_array(figure)
    assert pixels.std() > 10


def test_nothing_and_many_sources_can_be_drawn(statistics):
    empty = histograms_figure({"train/a": Statistics()})
    assert "none" in texts(empty.axes[0]) and "no problems" in texts(empty.axes[-1])
    figure_to_array(empty)
    many = histograms_figure({f"train/{number}": statistics for number in range(len(PALETTE) + 1)})
    assert not many.legends and "27 in all" in texts(many.axes[0])
    figure_to_array(many)
    for only in ("aspect_ratio", "mask_area"):
        beyond = Statistics()
        beyond.histograms[only].add([1e-9])
        figure_to_array(histograms_figure({"train/a": beyond}))
