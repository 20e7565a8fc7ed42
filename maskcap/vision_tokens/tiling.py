"""Which crops an image is cut into, and where its pixels lie on their canvas.

Sizes are (height, width) in px, tilings (rows, columns) of crops. Every choice compares whole numbers, so that a tie is
a tie whatever the sizes. The rules are those of Molmo's preprocessor (arXiv 2409.17146).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry


@dataclass(frozen=True)
class Fit:
    """Where an image lies on a canvas, px: its size there, and the padding above it and to its left."""

    height: int
    width: int
    top: int
    left: int


def select_tiling(
    height: int, width: int, window: int, max_crops: int, exact_crops: int | None = None
) -> tuple[int, int]:
    """Choose the crops of an image, `max_crops` at most.

    height, width: of the image less both margins (`Geometry.margin`); below 0 for a side shorter than that, which gives
    one crop. A tiling's scale is min(rows · window / height, columns · window / width). The smallest scale of at least
    1 wins; where there is none, the largest scale, and of equal ones the fewest crops.

    exact_crops: exactly as many instead, whatever `max_crops`. height, width are then the image's own size, and the
    tiling of the nearest aspect ratio wins; ties to the squarer one, then to fewer rows.

    Raises ConfigError where max_crops or exact_crops is below 1, or an aspect ratio is asked of a size below 1.
    """
    if exact_crops is not None:
        return min(tilings_of(exact_crops), key=lambda tiling: _exact_key(tiling, height, width))
    if max_crops < 1 or window < 1:
        raise ConfigError(f"max_crops={max_crops}, window={window} px: take at least 1")
    if height < 0 or width < 0:
        return 1, 1
    height, width = max(1, int(height)), max(1, int(width))
    rows, columns = -(-height // window), -(-width // window)
    if rows * columns <= max_crops:
        return rows, columns
    # The scale times height · width / window is min(rows · width, columns · height). With more rows the first term
    # grows, and the second shrinks since columns = max_crops // rows: the best is on either side of where they cross.
    below = bisect_left(range(1, max_crops + 1), True, key=lambda rows: rows * width > max_crops // rows * height)
    scale = max(below * width, max_crops // (below + 1) * height)
    return -(-scale // width), -(-scale // height)


@lru_cache(maxsize=256)
def tilings_of(crops: int) -> tuple[tuple[int, int], ...]:
    """Every tiling of exactly `crops` crops, fewest rows first. Raises ConfigError below 1."""
    if crops < 1:
        raise ConfigError(f"{crops} crops: take at least 1")
    return tuple((rows, crops // rows) for rows in range(1, crops + 1) if crops % rows == 0)


def aspect_distance(size: tuple[int, int], other: tuple[int, int]) -> Fraction:
    """How far apart two aspect ratios are: the larger over the smaller, at least 1; its log is |Δ log aspect|.

    Raises ConfigError for a size below 1.
    """
    if min(*size, *other) < 1:
        raise ConfigError(f"sizes {size} and {other}: an aspect ratio needs sides of at least 1")
    first, second = int(size[1]) * int(other[0]), int(size[0]) * int(other[1])
    return Fraction(max(first, second), min(first, second))


def _exact_key(tiling: tuple[int, int], height: int, width: int) -> tuple[Fraction, int, int]:
    return aspect_distance(tiling, (height, width)), abs(tiling[0] - tiling[1]), tiling[0]


def image_sizes_nearest(height: int, width: int, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The one of `sizes` whose aspect ratio is nearest to the image's (log), ties to the larger area.

    Of several sizes of one aspect ratio only the largest is ever taken. Raises ConfigError for an empty list.
    """
    sizes = list(sizes)
    if not sizes:
        raise ConfigError("image_sizes: the list is empty, name at least one HEIGHTxWIDTH")
    return min(sizes, key=lambda size: (aspect_distance(size, (height, width)), -size[0] * size[1]))


def parse_size(text: str) -> tuple[int, int]:
    """ "560x336" → (560, 336), height first. Raises ConfigError for any other form and for 0."""
    match = re.fullmatch(r"([0-9]+)x([0-9]+)", text.strip()) if isinstance(text, str) else None
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise ConfigError(f"image size {text!r}: write HEIGHTxWIDTH in px, as in 560x336")
    return size


def resize_for_crops(height: int, width: int, crops: int, geometry: Geometry = MOLMO) -> tuple[int, int]:
    """The canvas of exactly `crops` crops whose aspect ratio is nearest to the image's.

    Ties to the squarer tiling, then to fewer rows. An image of this size is cut into exactly these crops by
    `select_tiling` for any max_crops ≥ crops. Its margins count towards the aspect ratio, so the tiling may differ from
    that of `exact_crops`. Raises ConfigError where crops or a side is below 1.
    """

    def key(tiling: tuple[int, int]) -> tuple[Fraction, int, int]:
        """Nearest aspect ratio first, then the squarest, then fewer rows."""
        distance = aspect_distance(geometry.canvas(*tiling), (height, width))
        return distance, abs(tiling[0] - tiling[1]), tiling[0]

    return geometry.canvas(*min(tilings_of(crops), key=key))


def crop_sizes(max_crops: int, geometry: Geometry = MOLMO) -> dict[int, list[tuple[int, int]]]:
    """The table crops → every canvas of exactly as many, fewest rows first, for 1..max_crops crops."""
    if max_crops < 1:
        raise ConfigError(f"max_crops={max_crops}: take at least 1")
    return {crops: [geometry.canvas(*tiling) for tiling in tilings_of(crops)] for crops in range(1, max_crops + 1)}


def fit(height: int, width: int, canvas: Sequence[int]) -> Fit:
    """Place an image on a canvas as large as fits, aspect ratio kept, in the middle.

    The scale and the sizes are 32-bit floats, truncated, as Molmo was trained: 64 bits give another size for one image
    in eight. An odd pixel of padding goes below or to the right. A side is at least 1 px, however long the other.
    """
    tall, wide = np.float32(height), np.float32(width)
    scale = min(np.float32(canvas[0]) / tall, np.float32(canvas[1]) / wide)
    new_height, new_width = max(1, int(tall * scale)), max(1, int(wide * scale))
    return Fit(new_height, new_width, (int(canvas[0]) - new_height) // 2, (int(canvas[1]) - new_width) // 2)


def resize_and_pad(image_HW3: np.ndarray, canvas: Sequence[int]) -> tuple[np.ndarray, Fit]:
    """Resize an image to where `fit` puts it on a black canvas.

    image: uint8 (H, W, 3). Returns uint8 (*canvas, 3), contiguous, in new memory, and the fit. Antialiased bilinear by
    torch, as in `data.images.resize_image`: within 2 grey levels of Pillow's BILINEAR. An image that has its size
    already is copied as it is.
    """
    height, width = image_HW3.shape[:2]
    place = fit(height, width, canvas)
    if (height, width) != (place.height, place.width):
        image_HW3 = _resize(image_HW3, (place.height, place.width))
    padded_HW3 = np.zeros((*canvas, 3), np.uint8)
    padded_HW3[place.top : place.top + place.height, place.left : place.left + place.width] = image_HW3
    return padded_HW3, place


def _resize(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import torch
    from torch.nn import functional

    if not image_HW3.flags.writeable or min(image_HW3.strides) < 0:
        image_HW3 = image_HW3.copy()
    image_13HW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None]
    resized = functional.interpolate(image_13HW, size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()
