"""Curves of several runs as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from maskcap.reports.curves import FAINT, Series, smooth

WIDTH, HEIGHT = 400, 220  # of a chart, px
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 24  # around it
_POINTS = 240  # of a line, at most
_FEW = 24  # points from which on a curve is drawn smoothed
_COLOURS = ("#1f2933", "#00a3a1", "#f2542d", "#5b5bd6", "#d99a00", "#c2398b", "#3a8f3a", "#7b8794")


def colour(number: int) -> str:
    """Of run `number`: those of the other figures, then hues that are far from each other."""
    return _COLOURS[number] if number < len(_COLOURS) else f"hsl({(number * 137) % 360} 65% 40%)"


def chart(lines: Mapping[int, Series], names: Sequence[str]) -> str:
    """One metric: lines by the number of their run, whose name and last value show under the pointer.

    Long ones are faint as logged and bold smoothed; a logarithmic axis where positive values span over a factor of ten
    and a half of the points lie in the lowest tenth. Numbers that are not finite are left out.
    """
    kept = {run: _finite(points) for run, points in lines.items()}
    kept = {run: points for run, points in kept.items() if len(points[0])}
    if not kept:
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"><text x="60" y="100" fill="{FAINT}">no finite number</text></svg>'
    every = np.concatenate([values for _, values in kept.values()])
    steps = np.concatenate([steps for steps, _ in kept.values()])
    log = _logarithmic(every)
    x, y = _Axis(steps.min(), steps.max(), False), _Axis(every.min(), every.max(), log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', _grid(x, y)]
    for run, (at, values) in kept.items():
        title = f"<title>{escape(names[run])}: {values[-1]:.5g} at step {at[-1]:.0f}</title>"
        parts.append(f'<g class="r{run}" stroke="{colour(run)}" fill="none">{title}')
        if len(values) > _FEW:
            parts.append(_line(x, y, at, values, 'stroke-width="1" opacity=".25"'))
            values = smooth(values)
        parts.append(_line(x, y, at, values, 'stroke-width="1.8"'))
        if len(values) <= _FEW:
            dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in _places(x, y, at, values))
            parts.append(f'<g fill="{colour(run)}" stroke="none">{dots}</g>')
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


class _Axis:
    """Numbers → shares of an axis, with some room where all are the same."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self.log = log
        low, high = (math.log10(low), math.log10(high)) if log else (float(low), float(high))
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
            room = abs(low) * 0.1 or 1.0
            low, high = low - room, high + room
        self.low, self.high = low, high

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return ((np.log10(values) if self.log else values) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """(share of the axis, text), about four."""
        places = _round_places(self.low, self.high)
        labels = [10**place if self.log else place for place in places]
        return [
            ((p - self.low) / (self.high - self.low), f"{label:.4g}") for p, label in zip(places, labels, strict=True)
        ]


def _round_places(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside the limits."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(x: _Axis, y: _Axis) -> str:
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    lines = []
    for share, text in y.ticks():
        at = _TOP + (1 - share) * high
        lines.append(f'<path d="M{_LEFT} {at:.1f}h{wide}" stroke="#e4e7eb"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{text}</text>')
    for share, text in x.ticks():
        lines.append(f'<text x="{_LEFT + share * wide:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    return f'<g fill="{FAINT}" font-size="11">{"".join(lines)}</g>'


def _places(x: _Axis, y: _Axis, steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    across = _LEFT + x(steps) * (WIDTH - _LEFT - _RIGHT)
    up = _TOP + (1 - y(values)) * (HEIGHT - _TOP - _BOTTOM)
    return list(zip(across.tolist(), up.tolist(), strict=True))


def _line(x: _Axis, y: _Axis, steps: np.ndarray, values: np.ndarray, style: str) -> str:
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in _places(x, y, steps[kept], values[kept]))
    return f'<polyline points="{points}" {style}/>'


def _finite(points: Series) -> Series:
    kept = np.isfinite(points[1])
    return points[0][kept], points[1][kept]


def _logarithmic(values: np.ndarray) -> bool:
    low, high = values.min(), values.max()
    return bool(low > 0 and high > 10 * low and (values < low + (high - low) / 10).mean() > 0.5)
