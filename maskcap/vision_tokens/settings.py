"""How many tokens an image costs, as configuration: conf/vision_tokens/ has a file for each class here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskcap.errors import ConfigError
from maskcap.models.region_prompt import Pool
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.patch_selection import Method, check_selection
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.runtime import RuntimeRule, runtime_rule


@dataclass(frozen=True)
class SingleView:
    """One view of the whole image. pool: how a region's mask selects tokens, see `region_prompt.pool_masks`."""

    pool: Pool = "nearest"


@dataclass(frozen=True)
class Tiling:
    """A global view and overlapping crops, as many as the image's size asks for and a limit allows.

    pool: as above. max_crops: most crops of an image. exact_crops: as many of every image. vision_tokens: tokens that
    the vision encoder computes for an image, the global view's among them; of several each image takes what fits its
    aspect ratio. image_sizes: sizes "HEIGHTxWIDTH" in px, of which each image is treated as the nearest. The last three
    exclude each other. margins: of a crop in patches, before and after. global_view: whether it comes first.

    target_latency_ms: what an image may take; latency_table: the file of `maskcap tokens profile` that says how many
    crops that is, max_crops at most. min_scale: an image that its crops would scale below this share of its size takes
    the fewest that do not, whatever the target.
    """

    pool: Pool = "nearest"
    max_crops: int = 12
    exact_crops: int | None = None
    vision_tokens: int | Sequence[int] | None = None
    image_sizes: Sequence[str] | None = None
    margins: tuple[int, int] = (4, 4)
    global_view: bool = True
    target_latency_ms: float | None = None
    latency_table: str | None = None
    min_scale: float = 0.0

    def rule(self, geometry: Geometry) -> TilingRule:
        """The same for crops of this geometry. Raises ConfigError for what contradicts or does not divide."""
        how_many = self.max_crops, self.exact_crops, self.vision_tokens, self.image_sizes
        return TilingRule(geometry, *how_many, self.global_view)

    def runtime_rule(self, geometry: Geometry, model: str | None = None) -> RuntimeRule:
        """The rule held to the target and the floor; logs what it chose. model: `component_times.model_name` of the
        model that it is for. Raises ConfigError also for a target without a table of this geometry and model."""
        rule, target, table = self.rule(geometry), self.target_latency_ms, self.latency_table
        return runtime_rule(rule, target, table, self.min_scale, self.global_view, model)


@dataclass(frozen=True)
class Patches:
    """One view whose flat parts are seen at half, a quarter … of their resolution: 4, 16 … tokens become one.

    pool: as above, but `area` from the start: the top left pixel, which `nearest` asks, says little of a cell of 4 × 4.
    method: `budget` splits the most important cells until alpha · cells tokens are spent (0 < alpha ≤
    1); `v2` merges cells of an entropy up to alpha × the mean of the largest cells', so that a larger alpha leaves
    FEWER tokens; `v1` merges cells of an entropy below `thresholds` (bits, of the second level, the third …; None:
    3 and 2) and does not use alpha. levels: sizes of a cell, the base cell's among them: 3 are 1 × 1, 2 × 2 and 4 × 4.
    Raises ConfigError for values that `patch_selection.check_selection` refuses.
    """

    pool: Pool = "area"
    method: Method = "budget"
    alpha: float | None = 0.5
    thresholds: Sequence[float] | None = None
    levels: int = 3

    def __post_init__(self) -> None:
        check_selection(self.method, self.alpha, self.thresholds, self.levels)
        if self.thresholds is not None and self.method != "v1":
            raise ConfigError(f"vision_tokens.thresholds are of method v1; {self.method} does not read them")


VisionTokens = SingleView | Tiling | Patches
