"""Pictures of predictions beside the truth, as matplotlib figures made without pyplot (no global state, no display).

The curves of a run are in `curves.py`, re-exported here.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.reports.curves import FAINT, INK, curves_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect

__all__ = ["PredictionView", "curves_figure", "figure_to_array", "prediction_figure", "prediction_grid"]

TRUTH_COLOUR, PREDICTION_COLOUR = "#00a3a1", "#f2542d"  # told apart by colour-blind readers too
_PANEL, _GAP, _TEXT = 2.6, 0.12, 0.95  # inches: side of a picture, space around it, height of the text below
_LINES, _CHARACTERS = 3, 38  # of a caption
_LINE = 0.15  # inches, a line of it


@dataclass(frozen=True)
class PredictionView:
    """What one picture shows; None stands for what the run does not predict or the data set lacks.

    image: uint8 (H, W, 3) RGB. true_mask, predicted_mask: (H, W), bool or 0/1. caption: the true one.
    phrase: what was asked of caption → mask. name: of the region, stands below.
    """

    image: np.ndarray
    true_mask: np.ndarray
    predicted_mask: np.ndarray | None = None
    caption: str | None = None
    predicted_caption: str | None = None
    phrase: str | None = None
    name: str | None = None


def prediction_figure(
    image: np.ndarray,
    true_mask: np.ndarray,
    predicted_mask: np.ndarray | None = None,
    caption: str | None = None,
    predicted_caption: str | None = None,
    phrase: str | None = None,
) -> Figure:
    """One region: truth on the left, prediction on the right, captions below; arguments as in `PredictionView`.

    Raises ValueError when the image is not uint8 (H, W, 3) or a mask is of another size.
    """
    return prediction_grid([PredictionView(image, true_mask, predicted_mask, caption, predicted_caption, phrase)])


def prediction_grid(views: Sequence[PredictionView], columns: int = 2, lines: int | None = _LINES) -> Figure:
    """Several regions, `columns` pairs of pictures a row, in the given order.

    lines: of a caption, before it ends in an ellipsis; None: rows grow so that none does.
    Raises ValueError for no views, and as `prediction_figure`.
    """
    from matplotlib.figure import Figure

    if not views:
        raise ValueError("a grid of no predictions cannot be drawn")
    for view in views:
        _check(view)
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    lines = _most_lines(views) if lines is None else lines
    text = _TEXT + (lines - _LINES) * _LINE
    cell = (2 * _PANEL + 3 * _GAP, 0.3 + _PANEL + text)
    figure = Figure(figsize=(columns * cell[0], rows * cell[1]), dpi=100, facecolor="white")
    for index, view in enumerate(views):
        row, column = divmod(index, columns)
        _draw_view(figure, view, column * cell[0] + _GAP, (rows - 1 - row) * cell[1], text, lines)
    return figure


def figure_to_array(figure: Figure) -> np.ndarray:
    """Render to uint8 (height, width, 3), RGB, at the figure's own dpi."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a caption in a script that no font here has
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_view(figure: Figure, view: PredictionView, left: float, bottom: float, text: float, lines: int) -> None:
    """left, bottom: inches, the lower left corner of the text; text: its height, with `lines` lines of each caption."""
    truth = _panel(figure, left, bottom + text)
    _overlay(truth, view.image, view.true_mask, TRUTH_COLOUR)
    _texts(truth, "truth", TRUTH_COLOUR, view.caption, lines)
    prediction = _panel(figure, left + _PANEL + _GAP, bottom + text)
    _overlay(prediction, view.image, view.predicted_mask, PREDICTION_COLOUR)
    _texts(prediction, "prediction", PREDICTION_COLOUR, view.predicted_caption, lines, "—")
    if view.predicted_mask is not None:
        _outline(prediction, view.true_mask, TRUTH_COLOUR, 1.0, linestyles="dashed")
        iou = _iou(view.predicted_mask, view.true_mask)
        prediction.text(
            1, 1.02, f"IoU {iou:.2f}", transform=prediction.transAxes, ha="right", va="bottom", fontsize=9, color=INK
        )
    below = [view.name, None if view.phrase is None else f"asked for: {view.phrase}"]
    if any(below):
        width, height = figure.get_size_inches()
        foot = _wrap("  ".join(filter(None, below)), 2 * _CHARACTERS, 1)
        place = left / width, (bottom + 0.12) / height
        figure.text(*place, foot, va="bottom", fontsize=8, color=FAINT, style="italic", parse_math=False)


def _panel(figure: Figure, left: float, bottom: float) -> Axes:
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
    axes.set_axis_off()
    axes.set_anchor("SW")
    return axes


def _overlay(axes: Axes, image: np.ndarray, mask: np.ndarray | None, colour: str) -> None:
    """The image with the mask outlined and lightly tinted (its own colour stays readable) and the rest dimmed."""
    from matplotlib.colors import to_rgb

    pixels = image.astype(np.float32) / 255
    if mask is not None:
        inside = mask.astype(bool)[..., None]
        tinted = 0.8 * pixels + 0.2 * np.asarray(to_rgb(colour), dtype=np.float32)
        pixels = np.where(inside, tinted, 0.5 * pixels + 0.5)
    axes.imshow(pixels, interpolation="antialiased", aspect="equal")
    if mask is not None:
        _outline(axes, mask, colour, 2.0)


def _outline(axes: Axes, mask: np.ndarray, colour: str, width: float, **style: Any) -> None:
    from matplotlib.patheffects import withStroke

    mask = mask.astype(bool)
    if not mask.any():  # nothing to outline, and contour would warn
        return
    rows, columns = mask.shape
    padded = np.pad(mask, 1).astype(np.float32)  # closes the outline of an object cut by the image's edge
    # The white halo shows the line on an object of its own colour.
    halo: list[AbstractPathEffect] = [withStroke(linewidth=width + 1.6, foreground="white")]
    x, y = np.arange(-1, columns + 1), np.arange(-1, rows + 1)
    lines = axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width, **style)
    lines.set_path_effects(halo)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def _texts(axes: Axes, title: str, colour: str, caption: str | None, lines: int, absent: str = "") -> None:
    axes.text(
        0, 1.02, title, transform=axes.transAxes, va="bottom", fontsize=9, color=colour, weight="bold", parse_math=False
    )
    text = absent if caption is None else _wrap(caption, _CHARACTERS, lines)
    axes.text(0, -0.03, text, transform=axes.transAxes, va="top", fontsize=9, color=INK, parse_math=False)


def _most_lines(views: Sequence[PredictionView]) -> int:
    captions = [text for view in views for text in (view.caption, view.predicted_caption) if text]
    return max(_LINES, *(len(textwrap.wrap(text, _CHARACTERS)) for text in ["", *captions]))


def _wrap(text: str, width: int, lines: int) -> str:
    """At most `lines` lines; a text that is longer ends in an ellipsis, so the picture shows that it goes on."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first.astype(bool), second.astype(bool)
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def _check(view: PredictionView) -> None:
    if view.image.ndim != 3 or view.image.shape[2] != 3 or view.image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 (H, W, 3), not {view.image.dtype} {view.image.shape}")
    for name, mask in (("true_mask", view.true_mask), ("predicted_mask", view.predicted_mask)):
        if mask is not None and mask.shape != view.image.shape[:2]:
            raise ValueError(f"{name} is {mask.shape} but the image is {view.image.shape[:2]}")
