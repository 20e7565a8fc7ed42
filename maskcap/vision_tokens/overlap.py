"""How much overlapping crops see twice, counted on the patch grid of their canvas; the global view is left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry


@dataclass(frozen=True)
class OverlapStatistics:
    """Of one tiling; n is the number of crops that cover a patch.

    overlap: share of the patches with n ≥ 2, 0..1. redundancy: mean n, at least 1. depth: mean n of the patches with
    n ≥ 2, None where there are none. wasted: share of the crops' tokens that are dropped, 0..1.
    """

    overlap: float
    redundancy: float
    depth: float | None
    wasted: float


def coverage_counts(rows: int, columns: int, geometry: Geometry = MOLMO) -> np.ndarray:
    """Crops that cover each patch of the canvas, int64 (patch rows, patch columns), at least 1 everywhere.

    Raises ConfigError for a tiling without crops.
    """
    if rows < 1 or columns < 1:
        raise ConfigError(f"a tiling of {rows} × {columns} crops: take at least 1 × 1")
    return np.outer(_axis_counts(rows, geometry), _axis_counts(columns, geometry))


def _axis_counts(crops: int, geometry: Geometry) -> np.ndarray:
    step = geometry.window // geometry.patch
    counts = np.zeros(step * (crops - 1) + geometry.patches, np.int64)
    for crop in range(crops):
        counts[step * crop : step * crop + geometry.patches] += 1
    return counts


@lru_cache(maxsize=1024)
def overlap_statistics(rows: int, columns: int, geometry: Geometry = MOLMO) -> OverlapStatistics:
    """Count the overlap of `rows` × `columns` crops. Raises ConfigError for a tiling without crops."""
    counts = coverage_counts(rows, columns, geometry)
    shared = counts[counts >= 2]
    kept = geometry.kept(rows, columns, global_view=False)
    return OverlapStatistics(
        overlap=shared.size / counts.size,
        redundancy=float(counts.mean()),
        depth=float(shared.mean()) if shared.size else None,
        wasted=1 - kept / geometry.slots(rows, columns, global_view=False),
    )


def overlap_closed_form(rows: int, columns: int) -> tuple[float, float]:
    """Overlap and redundancy of `overlap_statistics` for Molmo's geometry, without counting.

    Along an axis, k crops of 3 units of 8 patches cover 2k + 1 such units; k + 2 of these lie in one crop only, all
    where k = 1. Raises ConfigError for a tiling without crops.
    """
    if rows < 1 or columns < 1:
        raise ConfigError(f"a tiling of {rows} × {columns} crops: take at least 1 × 1")

    def single(crops: int) -> float:
        """Of one axis."""
        return 1.0 if crops == 1 else (crops + 2) / (2 * crops + 1)

    redundancy = 9 * rows * columns / ((2 * rows + 1) * (2 * columns + 1))
    return 1 - single(rows) * single(columns), redundancy
