"""One image's adaptive patches in plain values: where its tokens were spent, and what other settings would spend.

Legend: H, W the original image; h, w the resized one, multiples of the cell; K the cells that were chosen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from maskcap.vision_tokens.block_resize import BlockResize
from maskcap.vision_tokens.entropy import entropy_pyramid
from maskcap.vision_tokens.patch_selection import (
    DEFAULT_THRESHOLDS,
    Selection,
    budget_counts,
    fewest_tokens,
    select_patches,
)
from maskcap.vision_tokens.settings import Patches

_V2_ALPHAS = 1.5  # how far v2's curve goes at least; above 1 the threshold exceeds the mean of the largest cells
_BUDGET_STEPS, _V2_STEPS = 40, 60  # of alpha; 0.025 each


@dataclass(frozen=True, eq=False)
class PatchView:
    """An image and its cells.

    size: (H, W) in px. image: uint8 (h, w, 3), as the model gets it. cell: side of a level-0 cell in px. pyramid:
    float32 entropies in bits, finest level first. selection: what was chosen, as `settings` says.
    """

    size: tuple[int, int]
    image: np.ndarray
    cell: int
    pyramid: list[np.ndarray]
    settings: Patches
    selection: Selection

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of level-0 cells."""
        return self.image.shape[0] // self.cell, self.image.shape[1] // self.cell

    @property
    def all_tokens(self) -> int:
        """Tokens of the image without selection: one for each level-0 cell."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """K."""
        return len(self.selection.cells)

    @property
    def thresholds(self) -> list[float] | None:
        """v1's, in bits, of the levels from 1 on; None for the other methods."""
        return _thresholds(self.settings) if self.settings.method == "v1" else None

    @property
    def alpha(self) -> float | None:
        """Of v2 and budget; None for v1, which has none."""
        return None if self.settings.method == "v1" else self.settings.alpha

    @property
    def cells_of_levels(self) -> list[int]:
        """How many cells of each level were chosen, finest first."""
        return np.bincount(self.selection.cells[:, 2], minlength=len(self.pyramid)).tolist()


@dataclass(frozen=True)
class Curve:
    """Tokens of an image over alpha (ascending). One point with alpha None: the method has no alpha."""

    method: str
    alpha: list[float | None]
    tokens: list[int]
    thresholds: list[float] | None = None


def make_patches(image_HW3: np.ndarray, settings: Patches, rule: BlockResize) -> PatchView:
    """Resize an image, uint8 (H, W, 3), measure it and choose its cells.

    Raises DataError for an image that is too slender.
    """
    image = rule.resize(image_HW3)
    pyramid = entropy_pyramid(image, rule.cell, settings.levels)
    selection = _select(pyramid, settings)
    return PatchView(image_HW3.shape[:2], image, rule.cell, pyramid, settings, selection)


def token_curves(view: PatchView) -> list[Curve]:
    """Tokens of this image for every method that its levels allow: budget, v2, v1.

    budget: alpha over 0..1. v2: from 0 to 1.5, or beyond the alpha that was chosen; it falls. v1: one point, by its
    thresholds; left out where there are more levels than default thresholds and none are given.
    """
    settings, levels = view.settings, view.settings.levels
    of_budget, of_v2 = (view.alpha if settings.method == method else None for method in ("budget", "v2"))
    budget_alphas = _alphas(1.0, _BUDGET_STEPS, of_budget)[1:]  # a budget of nothing is an error
    budget = [budget_counts(*view.grid, levels, alpha)["actual"] for alpha in budget_alphas]
    v2_alphas = _alphas(max(_V2_ALPHAS, 1.25 * (of_v2 or 0)), _V2_STEPS, of_v2)
    v2 = [len(select_patches(view.pyramid, "v2", alpha).cells) for alpha in v2_alphas]
    curves = [Curve("budget", [*budget_alphas], budget), Curve("v2", [*v2_alphas], v2)]
    if settings.method == "v1" or levels - 1 <= len(DEFAULT_THRESHOLDS):
        v1 = settings if settings.method == "v1" else replace(settings, method="v1", alpha=None, thresholds=None)
        curves.append(Curve("v1", [None], [len(_select(view.pyramid, v1).cells)], _thresholds(v1)))
    return curves


def patch_facts(view: PatchView) -> dict[str, Any]:
    """Plain values for JSON: sizes (height, width), the method, counts, each level's entropy, the cells, the curves."""
    rows, columns = view.grid
    levels = []
    for level, (entropy, cells) in enumerate(zip(view.pyramid, view.cells_of_levels, strict=True)):
        levels.append(
            {
                "level": level,
                "side": view.cell * 2**level,
                "grid": list(entropy.shape),
                "cells": cells,
                "area": cells * 4**level / view.all_tokens,
                "mean_entropy": float(entropy.mean(dtype=np.float64)) if entropy.size else None,
            }
        )
    return {
        "size": list(view.size),
        "resized": list(view.image.shape[:2]),
        "grid": [rows, columns],
        "cell": view.cell,
        "method": view.settings.method,
        "alpha": view.alpha,
        "thresholds": view.thresholds,
        "tokens": view.tokens,
        "all": view.all_tokens,
        "fewest": fewest_tokens(rows, columns, len(view.pyramid)),
        "info": view.selection.info,
        "levels": levels,
        "cells": view.selection.cells.tolist(),
        "curves": [asdict(curve) for curve in token_curves(view)],
    }


def _select(pyramid: list[np.ndarray], settings: Patches) -> Selection:
    alpha = None if settings.method == "v1" else settings.alpha
    return select_patches(pyramid, settings.method, alpha, settings.thresholds)


def _thresholds(settings: Patches) -> list[float]:
    given = DEFAULT_THRESHOLDS[: settings.levels - 1] if settings.thresholds is None else settings.thresholds
    return [float(threshold) for threshold in given]


def _alphas(most: float, steps: int, chosen: float | None) -> list[float]:
    """Even steps from 0 to `most`, and the one that was chosen among them."""
    every = {round(most * step / steps, 10) for step in range(steps + 1)}
    return sorted(every if chosen is None else {*every, float(chosen)})
