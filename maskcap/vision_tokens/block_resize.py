"""Qwen2-VL's size of an image: sides that are multiples of a merge block, and a number of pixels within limits.

Legend: H, W the original size; h, w the size of `BlockResize.size`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from maskcap.errors import ConfigError, DataError

_MOST_SLENDER = 200  # times as long as wide; beyond it Qwen2-VL refuses an image


@dataclass(frozen=True)
class BlockResize:
    """The rule; the defaults are those of `transformers`' Qwen2-VL image processor.

    cell: side of a merge block in px, one token of the language model. min_pixels, max_pixels: of the image after it,
    in px². Raises ConfigError for limits that no image can keep.
    """

    cell: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def __post_init__(self) -> None:
        if self.cell < 1:
            raise ConfigError(f"cell={self.cell}: a cell is at least 1 px wide")
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ConfigError(
                f"min_pixels={self.min_pixels}, max_pixels={self.max_pixels}: take 1 ≤ min_pixels ≤ max_pixels"
            )
        if self.max_pixels < self.cell**2:
            raise ConfigError(f"max_pixels={self.max_pixels} is less than one cell of {self.cell} × {self.cell} px")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in px: the nearest multiples of `cell`, or the scaled ones that keep to the limits.

        An image so slender that its short side falls below a cell may exceed max_pixels, as with Qwen2-VL. Raises
        DataError for an image over 200 times as long as wide.
        """
        if max(height, width) > _MOST_SLENDER * min(height, width):
            raise DataError(
                f"an image of {height} × {width} px is over {_MOST_SLENDER} times as long as wide, which Qwen2-VL "
                "refuses: cut it"
            )
        rows, columns = round(height / self.cell), round(width / self.cell)
        area = self.cell**2 * rows * columns
        if area > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(side / scale / self.cell)) for side in (height, width))
        elif area < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * scale / self.cell) for side in (height, width))
        return rows * self.cell, columns * self.cell

    def resize(self, image_HW3: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) → uint8 (h, w, 3), by Pillow's bicubic as the Qwen2-VL processor does; raises as `size`."""
        from PIL import Image

        height, width = self.size(*image_HW3.shape[:2])
        if (height, width) == image_HW3.shape[:2]:
            return image_HW3
        return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC))
