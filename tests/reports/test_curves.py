from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from maskcap.errors import DataError
from maskcap.reports.curves import curves_figure, read_metrics, smooth
from maskcap.reports.figures import figure_to_array

CSV = """epoch,step,train/loss_step,train/mask_to_caption/loss,train/mask_to_caption/map_loss,val/caption_cider,val/miou
0,10,3.0,2.0,9.0,,
0,20,1.0,0.1,9.0,,
0,20,,,,4.0,0.5
1,40,,,,6.0,0.75
"""


def legend(axes: Axes) -> list[str]:
    drawn = axes.get_legend()
    return [] if drawn is None else [text.get_text() for text in drawn.get_texts()]


@pytest.fixture
def metrics_csv(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    return path


def test_columns_are_read_without_their_empty_cells(metrics_csv: Path):
    series = read_metrics(metrics_csv)
    assert set(series) == set(CSV.splitlines()[0].split(",")) - {"epoch", "step"}
    steps, values = series["val/miou"]
    assert steps.tolist() == [20, 40] and values.tolist() == [0.5, 0.75]


def test_each_panel_draws_its_main_curves(metrics_csv: Path):
    figure = curves_figure(metrics_csv)
    losses, masks, captions = figure.axes
    assert legend(losses) == ["loss_step", "mask_to_caption"]
    assert losses.get_yscale() == "log"
    assert np.asarray(masks.lines[0].get_ydata()).tolist() == [0.5, 0.75]
    assert legend(captions) == ["cider / 10  0.600"]
    assert figure_to_array(figure).std() > 0


def test_the_cycles_masks_and_pseudo_captions_have_their_places(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    names = "val/miou,val/cycle_miou,val/cross_frame_miou_sav,val/cycle_distinct"
    train = "train/cycle/length_step,train/cycle/entropy,train/cycle/kl,train/cycle/distinct,train/cycle/empty"
    path.write_text(f"epoch,step,{train},{names}\n0,10,8,1.5,0,0.5,0,,,,\n0,20,6,1,0.25,1,0,0.5,0.25,0.75,1\n")
    masks, pseudo = curves_figure(path).axes
    assert legend(masks) == ["miou  0.500", "cross_frame_miou_sav  0.750", "cycle_miou  0.250"]
    assert legend(pseudo) == ["entropy", "kl", "distinct", "length_step / 10"]
    assert np.asarray(pseudo.lines[-1].get_ydata()).tolist() == [0.8, 0.6]
    assert pseudo.get_ylim()[0] == 0 and pseudo.get_ylim()[1] > 1.5
    path.write_text(path.read_text().replace("0.25,1,0,", "0,1,0,"))  # no reference
    assert legend(curves_figure(path).axes[1]) == ["entropy", "distinct", "length_step / 10"]


def test_a_run_without_metrics_still_gives_a_figure(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step\n0,1\n")
    figure = curves_figure(path)
    assert not figure.axes and figure.texts[0].get_text() == "nothing logged yet"
    figure_to_array(figure)


def test_smoothing_starts_unbiased_and_passes_over_nan():
    values = np.full(500, 3.0)
    values[[0, 7]] = math.nan, math.inf
    found = smooth(values)
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx(3.0)
    assert np.array_equal(smooth(np.array([1.0, 5.0])), [1.0, 5.0])  # too short to smooth


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("a,b\n1,2\n", "no column `step`"), ("step,a\n1,x\n", "line 2: `a` is not a number")],
)
def test_wrong_files_are_named(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        curves_figure(path)
