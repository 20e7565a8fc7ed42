"""Objects → pixels and exact masks: antialiased shapes on a soft grey ground.

Suffixes: H, W = side in pixels, N = objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from maskcap.data.scenes.grammar import PLACES, Attributes

RADIUS = {"small": (0.085, 0.08), "large": (0.15, 0.06)}  # share of the side, relative spread
JITTER = 0.04  # of the centre, share of the side
GAP = 0.008  # least free space between two objects' boxes and to the image's edge, share of the side
RGB = {
    "red": (214, 36, 40),
    "green": (40, 160, 62),
    "blue": (38, 84, 214),
    "yellow": (240, 218, 44),
    "purple": (146, 52, 186),
    "orange": (246, 134, 24),
}
_SUPERSAMPLING = 4
_SHIFT = 6  # fractional bits of OpenCV's polygon corners


def outline(shape: str) -> np.ndarray:
    """Corners (n, 2) as (x, y), y down, of a shape whose box lies in [-1, 1]²; areas 1.8 to 3.1."""
    if shape == "circle":
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if shape == "square":
        return 0.88 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    if shape == "triangle":
        return np.array([[0, -0.98], [1, 0.86], [-1, 0.86]])
    if shape == "cross":
        a, w = 1.0, 0.32
        return np.array(
            [[-w, -a], [w, -a], [w, -w], [a, -w], [a, w], [w, w], [w, a], [-w, a], [-w, w], [-a, w], [-a, -w], [-w, -w]]
        )
    raise ValueError(f"unknown shape {shape!r}")


def coverage(shape: str, centre: np.ndarray, radius: float, side: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """How much of each pixel a shape covers: float32 (h, w) in [0, 1] and its window (rows, columns) of the image.

    `centre` (x, y) and `radius` in pixels, pixel (0, 0) spanning [0, 1]²; what leaves the image is cut off.
    """
    low = np.floor(centre - radius).astype(int) - 1
    high = np.ceil(centre + radius).astype(int) + 1
    corners = (outline(shape) * radius + centre - low) * _SUPERSAMPLING - 0.5  # OpenCV: a pixel's centre is whole
    width, height = high - low
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    fixed = np.round(corners * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(fine, [fixed], 255, shift=_SHIFT)
    patch = cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    (x0, y0), (x1, y1) = np.clip(low, 0, side), np.clip(high, 0, side)
    inside = patch[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    return inside, (slice(int(y0), int(y1)), slice(int(x0), int(x1)))


def background(side: int, rng: np.random.Generator) -> np.ndarray:
    """Soft grey ground, float32 (H, W, 3) in 0..255: a gradient, slow blotches and a faint tint."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    slope = rng.uniform(-22, 22, 2).astype(np.float32)
    blotches = cv2.resize(rng.normal(0, 7, (7, 7)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    grey = np.float32(rng.uniform(95, 180)) + slope[0] * axis[None, :] + slope[1] * axis[:, None] + blotches
    tint = rng.uniform(-5, 5, 3).astype(np.float32)
    return grey[:, :, None] + tint


def paint(image: np.ndarray, colour: np.ndarray, patch: np.ndarray, window: tuple[slice, slice]) -> None:
    """Blend a flat colour (3,) over the window of `image` (H, W, 3) in place, weighted by coverage."""
    image[window] += patch[:, :, None] * (colour - image[window])


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add fine grain (to `image` itself) and round: float32 (H, W, 3) → uint8 (H, W, 3) RGB."""
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)
    grain *= 2.5
    image += grain[:, :, None]
    np.rint(image, out=image)
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8)


def pick_colour(name: str, rng: np.random.Generator) -> np.ndarray:
    """A named colour, lightly jittered: float32 (3,) in 0..255."""
    return np.clip(np.array(RGB[name]) + rng.uniform(-12, 12, 3), 0, 255).astype(np.float32)


def pick_radius(size: str, rng: np.random.Generator) -> float:
    """A radius for "small" or "large" as a share of the side."""
    mean, spread = RADIUS[size]
    return mean * (1 + rng.uniform(-spread, spread))


def draw_objects(objects: Sequence[Attributes], side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: uint8 (H, W, 3) RGB and masks uint8 (N, H, W) of 0/1 (over half covered), never overlapping."""
    radii = np.array([pick_radius(item.size, rng) for item in objects])
    centres = _centres([item.place for item in objects], radii, rng)
    image = background(side, rng)
    masks = np.zeros((len(objects), side, side), np.uint8)
    for mask, item, centre, radius in zip(masks, objects, centres, radii, strict=True):
        patch, window = coverage(item.shape, centre * side, radius * side, side)
        paint(image, pick_colour(item.colour, rng), patch, window)
        mask[window] = patch > 0.5
    return finish(image, rng), masks


def _centres(places: Sequence[str], radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Jittered cell centres (N, 2) as (x, y) shares of the side; jitter shrinks where two objects would touch."""
    cells = np.array([divmod(PLACES.index(place), 3)[::-1] for place in places])
    grid = (2 * cells + 1) / 6
    offset = rng.uniform(-JITTER, JITTER, grid.shape)
    while True:
        low = (radii + GAP)[:, None]
        centres = np.clip(grid + offset, np.minimum(low, grid), np.maximum(1 - low, grid))
        distance = np.abs(centres[:, None] - centres[None]).max(axis=2)
        touching = (distance < radii[:, None] + radii[None] + GAP) & ~np.eye(len(radii), dtype=bool)
        if not touching.any():
            return centres
        offset[touching.any(axis=1)] *= 0.5  # ends: two large objects in neighbouring cells' centres don't touch
