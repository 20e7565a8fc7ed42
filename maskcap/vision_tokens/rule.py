"""TilingRule: which tiling each image of a run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.tiling import aspect_distance, image_sizes_nearest, parse_size, select_tiling


@dataclass(frozen=True)
class TilingRule:
    """How an image's size becomes a tiling: within `max_crops`, or as one of the other three says.

    exact_crops: as many crops of every image. vision_tokens: tokens that the vision encoder computes for every image,
    the global view's among them if there is one (global_view); of several each image takes the one whose best tiling is
    nearest to its aspect ratio, ties to more tokens. image_sizes: "HEIGHTxWIDTH" in px; each image is cut as the one
    nearest to its aspect ratio would be within `max_crops`. The first two override `max_crops`.

    Raises ConfigError for more than one of the three, an empty list, a value below 1, tokens that are no whole crops, a
    size of another form.
    """

    geometry: Geometry = MOLMO
    max_crops: int = 12
    exact_crops: int | None = None
    vision_tokens: int | Sequence[int] | None = None
    image_sizes: Sequence[str] | None = None
    global_view: bool = True

    def __post_init__(self) -> None:
        for name in ("vision_tokens", "image_sizes"):  # a list from a YAML file would leave the rule unhashable
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, int | str) else tuple(value))
        named = [name for name in ("exact_crops", "vision_tokens", "image_sizes") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ConfigError(f"vision_tokens: {' and '.join(named)} exclude each other, keep one")
        for name in ("max_crops", "exact_crops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"vision_tokens.{name}={value}: take at least 1")
        for name in named:
            if getattr(self, name) == ():
                raise ConfigError(f"vision_tokens.{name}: the list is empty, name at least one value")
        for target in self.targets:
            crops_for(target, self.geometry, self.global_view)
        for text in self.image_sizes or ():
            parse_size(text)

    @property
    def targets(self) -> tuple[int, ...]:
        """`vision_tokens` as a tuple, empty where it is not set."""
        return () if isinstance(self.vision_tokens, int) else tuple(self.vision_tokens or ())

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """`image_sizes` as (height, width), empty where it is not set."""
        return tuple(parse_size(text) for text in self.image_sizes or ())

    def choose(self, height: int, width: int) -> tuple[int, int]:
        """The tiling (rows, columns) of an image of this size in px. Raises ConfigError for a size below 1."""
        if height < 1 or width < 1:
            raise ConfigError(f"an image of {height} × {width} px has no tiling")
        if self.exact_crops is not None:
            return self._exactly(self.exact_crops, height, width)
        if self.targets:
            crops = [crops_for(target, self.geometry, self.global_view) for target in self.targets]
            tilings = [self._exactly(number, height, width) for number in crops]
            return min(tilings, key=lambda tiling: (aspect_distance(tiling, (height, width)), -tiling[0] * tiling[1]))
        if self.image_sizes is not None:
            height, width = image_sizes_nearest(height, width, self.sizes)
        margin = self.geometry.margin
        return select_tiling(height - margin, width - margin, self.geometry.window, self.max_crops)

    def with_max_crops(self, max_crops: int) -> TilingRule:
        """The same rule within another number of crops; `exact_crops` and `vision_tokens` go on overriding it."""
        return replace(self, max_crops=max_crops)

    def _exactly(self, crops: int, height: int, width: int) -> tuple[int, int]:
        return select_tiling(height, width, self.geometry.window, self.max_crops, crops)


def crops_for(tokens: int, geometry: Geometry = MOLMO, global_view: bool = True) -> int:
    """Crops, beside the global view if there is one, when the vision encoder computes `tokens` for an image: 1 or more.

    Raises ConfigError, naming the nearest valid targets, where these are no whole number of crops.
    """
    views, rest = divmod(tokens, geometry.crop_tokens)
    if rest == 0 and views > global_view:
        return views - global_view
    valid = sorted({geometry.crop_tokens * max(1 + global_view, each) for each in (views, views + 1)})
    what = "a global view and at least one crop" if global_view else "at least one crop"
    raise ConfigError(
        f"vision_tokens={tokens}: a view has {geometry.crop_tokens} tokens and an image {what}, so take "
        f"{' or '.join(map(str, valid))}"
    )
