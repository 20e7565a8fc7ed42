"""Geometry: the sizes of crops that overlap by margins, in pixels, patches and tokens.

A canvas of r × c crops has a crop every `window` pixels; neighbours share their margins. Sizes are (height, width), a
grid's (rows, columns).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from maskcap.errors import ConfigError


@dataclass(frozen=True)
class Geometry:
    """One crop; the defaults are Molmo's (arXiv 2409.17146).

    crop: its side in px. patch: side of a patch in px. margins: patches before and after the window, of rows and of
    columns alike. pool: patches a side that become one token. Raises ConfigError when these do not divide, or leave no
    window.
    """

    crop: int = 336
    patch: int = 14
    margins: tuple[int, int] = (4, 4)
    pool: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "margins", (int(self.margins[0]), int(self.margins[1])))
        if min(self.crop, self.patch, self.pool) < 1 or min(self.margins) < 0:
            raise ConfigError(f"{self}: sizes are positive, margins not negative")
        if self.crop % (self.patch * self.pool):
            raise ConfigError(f"crop={self.crop} is no multiple of a token's {self.patch * self.pool} px")
        if any(margin % self.pool for margin in self.margins):
            raise ConfigError(
                f"margins={list(self.margins)} patches: take multiples of {self.pool}, which make a token"
            )
        if sum(self.margins) >= self.patches:
            raise ConfigError(f"margins={list(self.margins)} leave no window of {self.patches} patches: take less")

    @property
    def patches(self) -> int:
        """Patches a side of a crop."""
        return self.crop // self.patch

    @property
    def window(self) -> int:
        """From a crop to the next, px."""
        return self.crop - self.margin

    @property
    def margin(self) -> int:
        """Both margins, px."""
        return sum(self.margins) * self.patch

    @property
    def side(self) -> int:
        """Tokens a side of a crop."""
        return self.patches // self.pool

    @property
    def cell(self) -> int:
        """Side of a token, px."""
        return self.patch * self.pool

    @property
    def crop_tokens(self) -> int:
        """Tokens of a crop, and of the global view."""
        return self.side**2

    def canvas(self, rows: int, columns: int) -> tuple[int, int]:
        """Size in px that these crops cover."""
        return self.window * rows + self.margin, self.window * columns + self.margin

    def kept_grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Grid of the crops' tokens without those in interior margins: they tile the canvas."""
        height, width = self.canvas(rows, columns)
        return height // self.cell, width // self.cell

    def slots(self, rows: int, columns: int, global_view: bool = True) -> int:
        """Tokens that the vision encoder computes."""
        return self.crop_tokens * (rows * columns + global_view)

    def kept(self, rows: int, columns: int, global_view: bool = True) -> int:
        """Tokens that the language model reads."""
        kept_rows, kept_columns = self.kept_grid(rows, columns)
        return kept_rows * kept_columns + self.crop_tokens * global_view

    def mean_costs(self, images: Mapping[tuple[int, int], int], global_view: bool = True) -> tuple[float, float]:
        """Slots and kept tokens of the mean image; images: their number for each tiling, at least one in all."""
        whole = sum(images.values())
        slots, kept = (
            sum(cost(*tiling, global_view) * count for tiling, count in images.items()) / whole
            for cost in (self.slots, self.kept)
        )
        return slots, kept

    def kept_axis(self, crops: int) -> tuple[np.ndarray, np.ndarray]:
        """Along rows or columns: of each kept token, the crop it is from and its place there, both int64."""
        before, after = (margin // self.pool for margin in self.margins)
        spans = [
            np.arange(before if crop else 0, self.side - (after if crop < crops - 1 else 0)) for crop in range(crops)
        ]
        return np.repeat(np.arange(crops), [len(span) for span in spans]), np.concatenate(spans)


MOLMO = Geometry()
