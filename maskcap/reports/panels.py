"""Panels of a figure that is laid out in inches: where they are, their headings, lines of facts beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskcap.reports.curves import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Place:
    """Inches from the lower left corner of a figure → its own shares, as `Figure.add_axes` takes them."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height

    def __call__(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """A box of this size in inches, its lower left corner there."""
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def write_facts(
    figure: Figure,
    facts: Sequence[tuple[str, str]],
    left: float,
    top: float,
    name_width: float = 1.0,
    size: float = 10.5,
) -> None:
    """Names and values, a line each; left, top, name_width: inches, size: points."""
    width, height = figure.get_size_inches()
    for index, (name, value) in enumerate(facts):
        y = (top - 0.29 * index) / height
        for x, text, colour in ((left, name, FAINT), (left + name_width, value, INK)):
            figure.text(x / width, y, text, va="baseline", fontsize=size, color=colour, parse_math=False)


def inches_a_pixel(axes: Axes, height: float, width: float) -> float:
    """How large a pixel of a picture of this size, in px, is in these axes."""
    figure: Any = axes.figure
    box, (figure_width, figure_height) = axes.get_position(), figure.get_size_inches()
    return min(box.width * figure_width / width, box.height * figure_height / height)


def heading(axes: Axes, text: str, size: float = 11) -> None:
    """A bold title at the left; size: points."""
    axes.set_title(text, loc="left", fontsize=size, color=INK, weight="bold", pad=6)


def bare(axes: Axes) -> None:
    """No ticks and no frame; a picture goes to the upper left of its place."""
    axes.set(xticks=[], yticks=[])
    axes.set_anchor("NW")
    for spine in axes.spines.values():
        spine.set_visible(False)
