from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from maskcap.reports.trials import history_figure, importance_figure, parallel_figure, write_plots
from maskcap.sweeps.results import TrialRow, best_row


def row(number: int, state: str, value: float | None, **parameters: object) -> TrialRow:
    return TrialRow(number, state, value, 1.0, parameters, {}, "")


ROWS = [
    row(0, "finished", 0.2, lr=1e-4, kind="a", layers=1),
    row(1, "failed", None, lr=1e-3, kind="b", layers=1),
    row(2, "pruned", 0.1, lr=1e-3, kind="b", layers=1),
    row(3, "finished", 0.6, lr=1e-2, kind="a", layers=1),
    row(4, "finished", 0.4, lr=1e-2, kind="c", layers=1),
]


def test_the_best_is_a_finished_one_in_the_sweeps_direction():
    assert [best_row(ROWS, way) for way in ("maximize", "minimize")] == [ROWS[3], ROWS[0]]
    assert best_row(ROWS[1:3], "maximize") is None


@pytest.mark.parametrize(("maximize", "line"), [(True, [0.2, 0.6, 0.6]), (False, [0.2, 0.2, 0.2])])
def test_history_shows_the_best_so_far(maximize: bool, line: list[float]):
    (axes,) = history_figure(ROWS, "val/miou", maximize=maximize).axes
    lines = {str(each.get_label()): each for each in axes.lines}
    assert list(lines["best so far"].get_ydata()) == line and list(lines["pruned"].get_xdata()) == [2]
    assert list(lines["failed or interrupted"].get_xdata()) == [1]


def test_parallel_coordinates_place_each_trial_on_each_axis():
    (axes,) = parallel_figure(ROWS, "val/miou", maximize=True).axes
    trials = [each for each in axes.lines if len(each.get_xdata()) == 4]
    heights = sorted([round(float(y), 3) for y in each.get_ydata()] for each in trials)
    # lr over two decades is logarithmic, kinds a, b, c, one number of layers in the middle, then the metric
    assert heights == [[0.0, 0.0, 0.5, 0.2], [0.5, 0.5, 0.5, 0.0], [1.0, 0.0, 0.5, 1.0], [1.0, 1.0, 0.5, 0.6]]
    texts = {each.get_text() for each in axes.texts}
    assert {"lr", "kind", "layers", "val/miou", "0.0001", "0.01", "a", "b", "c", "1"} <= texts


def test_importances_are_bars_or_a_reason():
    (axes,) = importance_figure({"lr": 0.7, "kind": 0.3}, "val/miou").axes
    assert [patch.get_width() for patch in axes.patches] == [0.3, 0.7]  # type: ignore[attr-defined]
    (axes,) = importance_figure({}, "val/miou", "2 trials finished: importances need 4").axes
    assert [each.get_text() for each in axes.texts] == ["2 trials finished: importances need 4"]


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2]], ids=["several", "none with a value"])
def test_every_plot_is_a_picture(rows: list[TrialRow], tmp_path: Path):
    written = write_plots(rows, tmp_path, "val/miou", maximize=True, importances={})
    assert [path.name for path in written] == ["importance.png", "parallel_coordinates.png", "history.png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.size[0] > 400
