"""The page is one well-formed file that asks nothing of the network."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.metrics.prediction import Prediction
from maskcap.reports.html.drawing import chart, colour
from maskcap.reports.html.page import data_uri, report_page
from maskcap.reports.html.runs import read_runs
from maskcap.reports.html.tables import answers_table, better, metrics_table, predictions_table, settings_table
from tests.reports.html.conftest import MakeRun

_VOID = {"meta", "input", "img"}


class Nesting(HTMLParser):
    """Raises AssertionError where an element is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_all_runs_and_asks_nothing_of_the_network(make_run: MakeRun):
    runs = read_runs([make_run("a", 0.5), make_run("b<i>", 0.75, 2e-3)])
    page = report_page(runs, "a & b")
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == []
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(?!data:)[a-z/.]""", page) and "http" not in page
    assert "<title>a &amp; b</title>" in page and "b&lt;i&gt;" in page and "b<i>" not in page
    assert page.count("<svg") == 2 and page.count("data:image/jpeg") == 2 and "c0ffee" in page and "noon 0" in page
    assert page.count('<g class="r0"') == 2 and 'class="note"' not in page


def test_a_run_without_metrics_is_named(make_run: MakeRun):
    a, b = make_run("a"), make_run("b")
    for name in ("metrics.json", "metrics.csv"):
        (b / name).unlink()
    page = report_page(read_runs([a, b]), "t")
    assert "b has no metrics.json (no such file), no metrics.csv (no such file)." in page


def test_the_best_is_bold_and_what_differs_is_listed(make_run: MakeRun):
    runs = read_runs([make_run("a", 0.5), make_run("b", 0.75, 2e-3)])
    table = metrics_table(runs)
    assert "<td>val/miou</td><td>0.5</td><td><b>0.75</b></td>" in table
    assert "<td>val/swap_colour</td><td><b>0.5</b></td><td>0.75</td>" in table
    assert "<td>val/caption_exact</td><td>0.25</td><td>0.25</td>" in table and "<td>step</td><td>40</td>" in table
    assert "<td>optimizer.lr</td><td>0.001</td><td>0.002</td>" in settings_table(runs)
    assert settings_table(runs[:1]) == "" and "name" not in settings_table(runs)
    lost = replace(runs[1], metrics={"val/miou": None})
    assert "<td>val/miou</td><td>0.5</td><td>–</td>" in metrics_table([runs[0], lost])


@pytest.mark.parametrize(
    ("name", "sign"),
    [("val/miou", 1), ("train/loss", -1), ("val_seconds", -1), ("val/caption_truncated", -1), ("step", 0)],
)
def test_which_metrics_are_better_when_they_are_larger(name: str, sign: int):
    assert better(name) == sign


def test_the_worst_predictions_come_first():
    rows = [Prediction(f"k{i}", "0", "main", "s", caption="<b>", iou=iou) for i, iou in enumerate((0.9, None, 0.1))]
    table = predictions_table(rows)
    assert table.index("k2") < table.index("k0") and "k1" not in table and "&lt;b&gt;" in table


def test_the_worst_answers_come_first():
    rows = [
        Prediction(f"k{i}", "answer", "main", "s", question="<q>", answer="a dog", predicted_answer=said)
        for i, said in enumerate(("a dog", "a cat", None))
    ]
    table = answers_table(rows)
    assert table.index("k1") < table.index("k0") and "k2" not in table and "&lt;q&gt;" in table
    assert answers_table(rows[2:]) == "" and "k0" not in predictions_table(rows)


def test_tags_make_no_answer_worse():
    """A right answer with two grounded phrases against one that has a word of four in common."""
    rows = [
        Prediction(f"k{i}", "answer", "main", "s", question="?", answer="a dog on a rug", predicted_answer=said)
        for i, said in enumerate(("<p> a dog </p> [SEG] on <p> a rug </p> [SEG]", "a dog on two beds", "a cat"))
    ]
    table = answers_table(rows)
    assert table.index("k2") < table.index("k1") < table.index("k0") and "&lt;p&gt; a dog" in table


def test_a_chart_of_anything_has_finite_places_inside_its_frame():
    steps = np.arange(1000.0)
    lines = {0: (steps, np.exp(-steps / 100) * 50), 1: (steps[:1], np.array([3.0])), 3: (steps[:2], np.zeros(2))}
    lines[2] = (steps[:3], np.array([1.0, math.nan, math.inf]))
    drawn = chart(lines, ["a", "b", "c", "d"])
    places = [float(n) for points in re.findall(r'points="([^"]+)"', drawn) for n in re.split("[ ,]", points)]
    assert all(-1 <= place <= 401 for place in places) and "nan" not in drawn
    assert drawn.count("<title>") == 4 and "b: 3 at step 0" in drawn
    assert max(len(points.split()) for points in re.findall(r'points="([^"]+)"', drawn)) <= 240
    assert "no finite number" in chart({0: (steps[:1], np.array([math.nan]))}, ["a"])
    assert len({colour(number) for number in range(40)}) == 40


def test_a_falling_loss_gets_a_logarithmic_axis():
    steps = np.arange(100.0)
    drawn = chart({0: (steps, 1000 * np.exp(-steps / 10) + 0.1)}, ["a"])
    assert ">1000</text>" in drawn and ">1</text>" in drawn


def test_pictures_are_inside_and_not_too_wide(tmp_path: Path):
    Image.new("RGB", (2800, 100), "red").save(tmp_path / "wide.png")
    encoded = data_uri(tmp_path / "wide.png").removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.size == (1400, 50)
