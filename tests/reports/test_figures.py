from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from maskcap.reports.figures import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    PredictionView,
    _wrap,
    figure_to_array,
    prediction_figure,
    prediction_grid,
)


def view(height: int = 32, width: int = 48) -> PredictionView:
    image = np.full((height, width, 3), 128, np.uint8)
    true, predicted = np.zeros((2, height, width), dtype=bool)
    true[8:24, 8:24] = True
    predicted[8:24, 16:32] = True
    return PredictionView(image, true, predicted, "the grey $x_1$ square", "a square", "grey square")


def count_colour(pixels: np.ndarray, colour: str) -> int:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels.astype(int) - rgb).max(-1) < 12).sum())


def texts(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [artist.get_text() for artist in figure.findobj(Text) if artist.get_text()]  # pyright: ignore


def test_one_region_shows_both_outlines_captions_phrase_and_iou():
    v = view()
    figure = prediction_figure(v.image, v.true_mask, v.predicted_mask, v.caption, v.predicted_caption, v.phrase)
    assert {"the grey $x_1$ square", "a square", "asked for: grey square", "IoU 0.33"} <= set(texts(figure))
    pixels = figure_to_array(figure)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    middle = pixels.shape[1] // 2
    assert count_colour(pixels[:, :middle], TRUTH_COLOUR) > 100  # a title and an outline
    assert count_colour(pixels[:, middle:], PREDICTION_COLOUR) > 100
    assert count_colour(pixels[:, :middle], PREDICTION_COLOUR) == 0


def test_the_rest_of_the_image_is_dimmed_and_the_object_is_not():
    v = view()
    array = np.asarray(prediction_figure(v.image, v.true_mask).axes[0].images[0].get_array())
    assert array[0, 0] == pytest.approx(0.5 * 128 / 255 + 0.5, abs=1e-3)
    assert array[12, 12] == pytest.approx(0.8 * 128 / 255 + 0.2 * np.array([0x00, 0xA3, 0xA1]) / 255, abs=1e-3)


def test_missing_predictions_empty_masks_and_foreign_scripts_draw_without_a_warning():
    v = view()
    empty = np.zeros_like(v.true_mask)
    views = [
        PredictionView(v.image, empty, empty),
        PredictionView(v.image, ~empty, None, caption="红色的圆", phrase="红"),
        PredictionView(v.image[:, :20], v.true_mask[:, :20], v.predicted_mask[:, :20]),  # pyright: ignore
    ]
    figure = prediction_grid(views)
    assert "IoU 1.00" in texts(figure)
    figure_to_array(figure)


def test_a_grid_grows_by_rows_and_renders_the_same_twice():
    one, two, three = (figure_to_array(prediction_grid([view()] * count)) for count in (1, 2, 3))
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)
    assert three.shape == (2 * one.shape[0], 2 * one.shape[1], 3)
    assert np.array_equal(three, figure_to_array(prediction_grid([view()] * 3)))


def test_a_long_caption_shows_that_it_goes_on():
    wrapped = _wrap("word " * 100, 38, 3)
    assert wrapped.count("\n") == 2 and wrapped.endswith("…")


def test_rows_grow_so_that_no_caption_is_cut():
    v = view()
    long = PredictionView(v.image, v.true_mask, v.predicted_mask, None, "word " * 60, name="set/train/0 region 3")
    short, grown = prediction_grid([long, v], columns=4), prediction_grid([long, v], columns=4, lines=None)
    (text,) = [each for each in texts(grown) if each.startswith("word")]
    assert text.split() == ["word"] * 60 and text.count("\n") == 8
    assert any(each.endswith("…") for each in texts(short))
    assert "set/train/0 region 3" in texts(grown)
    assert grown.get_size_inches()[1] - short.get_size_inches()[1] == pytest.approx(6 * 0.15)
    assert figure_to_array(grown).shape[1] == figure_to_array(short).shape[1]
    usual = [prediction_grid([v], lines=lines).get_size_inches().tolist() for lines in (3, None)]
    assert usual[0] == usual[1]  # of short captions
    from matplotlib.text import Text

    boxes = [
        artist.get_window_extent()
        for artist in grown.findobj(Text)
        if artist.get_text().startswith(("word", "set/"))  # pyright: ignore
    ]
    assert not boxes[0].overlaps(boxes[1]) and min(box.y0 for box in boxes) > 0


def test_wrong_shapes_are_refused():
    v = view()
    with pytest.raises(ValueError, match=r"predicted_mask is \(4, 4\) but the image is \(32, 48\)"):
        prediction_figure(v.image, v.true_mask, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="uint8"):
        prediction_figure(v.image / 255, v.true_mask)
    with pytest.raises(ValueError, match="no predictions"):
        prediction_grid([])


def test_drawing_does_not_load_pyplot():
    code = (
        "import sys, numpy as np; from maskcap.reports.figures import prediction_figure, figure_to_array;"
        "assert 'matplotlib' not in sys.modules;"
        "figure_to_array(prediction_figure(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8))));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
