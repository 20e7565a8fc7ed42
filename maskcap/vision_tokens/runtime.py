"""RuntimeRule: a tiling rule held to a latency, and above a quality floor."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.latency import LatencyTable
from maskcap.vision_tokens.rule import TilingRule

log = logging.getLogger(__name__)

FloorState = Literal["within", "raised", "short"]


@dataclass(frozen=True)
class RuntimeRule:
    """`rule` within `crops` crops, but for images that would be scaled below `min_scale`.

    rule: what is configured; its max_crops also bounds an image that is raised. min_scale: 0..1, an image's least scale
    on its canvas, see `scale_on`. An image below it takes the fewest crops that reach it; where these are more than
    max_crops, it takes what the rule has for max_crops. target_ms: the latency that `crops` are to keep; device: name
    of the device that it was measured on; None without a target.

    Raises ConfigError for a floor outside 0..1, and for a floor or a target beside exact_crops or vision_tokens, which
    say themselves how many crops there are (a floor also beside image_sizes).
    """

    rule: TilingRule
    crops: int
    min_scale: float = 0.0
    target_ms: float | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_scale <= 1:
            raise ConfigError(f"vision_tokens.min_scale={self.min_scale}: a share of the image's size, 0 to 1")
        for option, value, excluded in (
            ("target_latency_ms", self.target_ms, ("exact_crops", "vision_tokens")),
            ("min_scale", self.min_scale or None, ("exact_crops", "vision_tokens", "image_sizes")),
        ):
            for name in excluded:
                if value is not None and getattr(self.rule, name) is not None:
                    raise ConfigError(
                        f"vision_tokens.{option}={value} and vision_tokens.{name} both say how many crops an image "
                        "takes: keep one"
                    )

    @property
    def geometry(self) -> Geometry:
        """Of the crops."""
        return self.rule.geometry

    def choose(self, height: int, width: int) -> tuple[int, int]:
        """The tiling (rows, columns) of an image of this size in px. Raises ConfigError for a size below 1."""
        return self.decide(height, width)[0]

    def decide(self, height: int, width: int) -> tuple[tuple[int, int], FloorState]:
        """The tiling, and how it came about.

        within: the one for `crops`. raised: more crops, for the floor. short: below the floor also with max_crops.
        """
        tiling = self._within.choose(height, width)
        if self.min_scale == 0 or self._reaches(tiling, height, width):
            return tiling, "within"
        rows, columns = (self._needed(side) for side in (height, width))
        if rows * columns <= self.rule.max_crops:
            return (rows, columns), "raised"
        return self.rule.choose(height, width), "short"

    def describe(self) -> str:
        """One line: the target, the crops, the floor."""
        target = "no target" if self.target_ms is None else f"target {self.target_ms:g} ms"
        floor = f", at least {self.min_scale:g} of an image's size" if self.min_scale else ""
        return f"{target}: at most {self.crops} of {self.rule.max_crops} crops an image{floor}"

    @cached_property
    def _within(self) -> TilingRule:
        return self.rule.with_max_crops(min(self.crops, self.rule.max_crops))

    def _reaches(self, tiling: tuple[int, int], height: int, width: int) -> bool:
        return scale_on(tiling, height, width, self.geometry) >= Fraction(str(self.min_scale))

    def _needed(self, side: int) -> int:
        """Crops along a side of the image that keep the floor."""
        wanted = Fraction(str(self.min_scale)) * side - self.geometry.margin
        return max(1, -(-wanted // self.geometry.window))


def scale_on(tiling: tuple[int, int], height: int, width: int, geometry: Geometry) -> Fraction:
    """An image's scale on the canvas of its tiling, 1 at most: 1/2 keeps every second pixel of a side."""
    canvas = geometry.canvas(*tiling)
    return min(Fraction(1), Fraction(canvas[0], height), Fraction(canvas[1], width))


def runtime_rule(
    rule: TilingRule,
    target_ms: float | None,
    table: str | None,
    min_scale: float,
    global_view: bool = True,
    model: str | None = None,
) -> RuntimeRule:
    """The rule with as many crops as a measured table says the target allows, and the floor; logs what it chose.

    table: a file that `maskcap tokens profile` wrote. model: the name of the model at hand, None: not compared. A
    target that no measured number of crops keeps takes 1 crop, with a warning. Raises ConfigError for a target without
    a table, or one of another geometry or model; see also RuntimeRule.
    """
    if target_ms is None:
        if table is not None:
            log.warning("vision_tokens.latency_table=%s has no use without vision_tokens.target_latency_ms", table)
        plain = RuntimeRule(rule, rule.max_crops, min_scale)
        if min_scale:
            log.info("vision tokens, %s", plain.describe())
        return plain
    if target_ms <= 0:
        raise ConfigError(f"vision_tokens.target_latency_ms={target_ms}: take more than 0")
    if table is None:
        raise ConfigError(
            f"vision_tokens.target_latency_ms={target_ms:g} needs a measured table: write one with "
            "`maskcap tokens profile out=latency.json`, and give vision_tokens.latency_table=latency.json"
        )
    measured = LatencyTable.load(table)
    _check_same(measured, table, rule.geometry, global_view, model)
    crops = measured.crops_within(target_ms, rule.max_crops)
    chosen = RuntimeRule(rule, crops, min_scale, target_ms, measured.device)
    total = measured.total(crops)
    if total is None or total > target_ms:
        fastest = measured.fastest
        log.warning(
            "vision_tokens.target_latency_ms=%g cannot be met: the fastest of %s, %d crop(s), takes %.1f ms; "
            "images take 1 crop",
            target_ms, table, fastest.crops, fastest.total,
        )  # fmt: skip
    elif crops == measured.rows[-1].crops < rule.max_crops:
        log.warning(
            "%s ends at %d crops, which take %.1f ms: the target of %g ms may allow more of max_crops=%d",
            table, crops, total, target_ms, rule.max_crops,
        )  # fmt: skip
    took = "not measured" if total is None else f"measured {total:.1f} ms on {measured.device}"
    log.info("vision tokens, %s (%s)", chosen.describe(), took)
    return chosen


def _check_same(table: LatencyTable, path: str, geometry: Geometry, global_view: bool, model: str | None) -> None:
    again = "measure this model: `maskcap tokens profile`"
    if table.geometry != geometry or table.global_view != global_view:
        raise ConfigError(
            f"latency_table={path} is of {table.geometry} (global_view={table.global_view}), the model has {geometry} "
            f"(global_view={global_view}): {again}"
        )
    if model is not None and table.model != model:
        raise ConfigError(f"latency_table={path} is of another model, {table.model}, not {model}: {again}")
