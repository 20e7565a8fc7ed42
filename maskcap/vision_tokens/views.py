"""The views of one image: its global view and crops, and where each lies on the canvas and on the image.

Boxes are (top, left, bottom, right) in px.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.limits import sequence_length
from maskcap.vision_tokens.overlap import coverage_counts, overlap_statistics
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.tiling import Fit, resize_and_pad

Prompt: TypeAlias = Literal["internvl", "molmo"]  # whose tokens stand around an image's


@dataclass(frozen=True, eq=False)
class Views:
    """What the vision encoder gets of one image.

    image: uint8 (H, W, 3). tiling: crops (rows, columns). canvas: uint8, as large as `geometry.canvas(*tiling)`, with
    the image where `fit` says. global_view: uint8 (crop, crop, 3), the whole image, its aspect ratio not kept; None
    where the model has none.
    """

    image: np.ndarray
    geometry: Geometry
    tiling: tuple[int, int]
    canvas: np.ndarray
    fit: Fit
    global_view: np.ndarray | None

    @property
    def boxes(self) -> np.ndarray:
        """int64 (crops, 4): of each crop on the canvas, in raster order."""
        return crop_boxes(*self.tiling, self.geometry)

    @property
    def image_boxes(self) -> np.ndarray:
        """float64 (crops, 4): of each crop on the image, cut off at its edges."""
        height, width = self.image.shape[:2]
        return boxes_on_image(self.boxes, self.fit, height, width)

    @property
    def crops(self) -> list[np.ndarray]:
        """uint8 (crop, crop, 3) each, in raster order: parts of `canvas`, not copies."""
        return [self.canvas[top:bottom, left:right] for top, left, bottom, right in self.boxes]


def make_views(image_HW3: np.ndarray, rule: TilingRule, global_view: bool = True) -> Views:
    """Cut an image, uint8 (H, W, 3), as `rule` says. Raises ConfigError for sizes that the rule cannot tile."""
    from maskcap.data.images import resize_image

    geometry = rule.geometry
    tiling = rule.choose(*image_HW3.shape[:2])
    canvas, fit = resize_and_pad(image_HW3, geometry.canvas(*tiling))
    whole = resize_image(image_HW3, geometry.crop) if global_view else None
    return Views(image_HW3, geometry, tiling, canvas, fit, whole)


def crop_boxes(rows: int, columns: int, geometry: Geometry) -> np.ndarray:
    """int64 (rows · columns, 4): each crop on the canvas, in raster order."""
    top, left = np.divmod(np.arange(rows * columns), columns)
    corner = np.stack([top, left], axis=1) * geometry.window
    return np.concatenate([corner, corner + geometry.crop], axis=1)


def boxes_on_image(boxes: np.ndarray, fit: Fit, height: int, width: int, cut: bool = True) -> np.ndarray:
    """float64 (n, 4): boxes on the canvas → on the image of `height` × `width` px that lies there as `fit` says.

    cut: at the image's edges; else what lies on padding goes beyond them.
    """
    start = np.array([fit.top, fit.left] * 2)
    scale = np.array([height / fit.height, width / fit.width] * 2)
    placed = (boxes - start) * scale
    return np.clip(placed, 0, [height, width] * 2) if cut else placed


def coverage_shares(rows: int, columns: int, geometry: Geometry) -> dict[int, float]:
    """Share of the canvas's patches that 1, 2, … crops cover; those that none is covered by are left out."""
    counts, patches = np.unique(coverage_counts(rows, columns, geometry), return_counts=True)
    return {int(count): float(share) for count, share in zip(counts, patches / patches.sum(), strict=True)}


def prompt_length(rows: int, columns: int, geometry: Geometry, prompt: Prompt, global_view: bool = True) -> int:
    """Tokens of an image in the language model's sequence: those kept, and what stands around them.

    "internvl": `<img>` and `</img>`. "molmo": what `limits.sequence_length` says.
    """
    if prompt == "internvl":
        return geometry.kept(rows, columns, global_view) + 2
    return sequence_length(rows, columns, geometry, global_view=global_view)


def tiling_facts(
    rows: int, columns: int, geometry: Geometry, prompt: Prompt = "internvl", global_view: bool = True
) -> dict[str, Any]:
    """What a tiling costs, as plain values: slots, kept tokens, sequence length, and its overlap statistics."""
    facts = {
        "rows": rows,
        "columns": columns,
        "crops": rows * columns,
        "canvas": list(geometry.canvas(rows, columns)),
        "slots": geometry.slots(rows, columns, global_view),
        "kept": geometry.kept(rows, columns, global_view),
        "sequence_length": prompt_length(rows, columns, geometry, prompt, global_view),
    }
    return facts | asdict(overlap_statistics(rows, columns, geometry))


def every_tiling(
    max_crops: int, geometry: Geometry, prompt: Prompt = "internvl", global_view: bool = True
) -> list[dict[str, Any]]:
    """`tiling_facts` of every tiling of at most `max_crops` crops, fewest crops first, then fewest rows."""
    tilings = [(rows, n // rows) for n in range(1, max_crops + 1) for rows in range(1, n + 1) if n % rows == 0]
    return [tiling_facts(*tiling, geometry, prompt, global_view) for tiling in tilings]


def views_facts(views: Views, prompt: Prompt = "internvl") -> dict[str, Any]:
    """One image's views in plain values: size, canvas, fit, each crop's place, costs, overlap, coverage."""
    rows, columns = views.tiling
    height, width = views.image.shape[:2]
    global_view = views.global_view is not None
    crops = []
    for index, (box, image_box) in enumerate(zip(views.boxes, views.image_boxes, strict=True)):
        row, column = divmod(index, columns)
        place = {"number": index + 1, "row": row, "column": column, "file": crop_file(index + 1, row, column)}
        crops.append(place | {"on_canvas": box.tolist(), "on_image": image_box.round(3).tolist()})
    costs = tiling_facts(rows, columns, views.geometry, prompt, global_view)
    return {
        "height": height,
        "width": width,
        "tiling": [rows, columns],
        "global_view": crop_file(0) if global_view else None,
        "fit": asdict(views.fit),
        "padding": padding_share(views.fit, views.geometry.canvas(rows, columns)),
        **{name: costs[name] for name in ("canvas", "slots", "kept", "sequence_length")},
        "overlap": {name: costs[name] for name in ("overlap", "redundancy", "depth", "wasted")},
        "coverage": {str(count): share for count, share in coverage_shares(rows, columns, views.geometry).items()},
        "crops": crops,
    }


def padding_share(fit: Fit, canvas: tuple[int, int]) -> float:
    """Share of the canvas that the image does not cover, 0..1."""
    return 1 - fit.height * fit.width / (canvas[0] * canvas[1])


def crop_file(number: int, row: int = 0, column: int = 0) -> str:
    """Name of a view's file; number 0 is the global view."""
    return f"crops/{number:02d}_r{row}_c{column}.png" if number else "crops/00_global.png"
