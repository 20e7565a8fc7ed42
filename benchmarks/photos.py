"""Drawn stand-ins for SA-1B: `sa_N.jpg` with the entropy of photos, and `sa_N.json` with about 100 irregular masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from maskcap.data.rle import encode_mask

QUALITY = 90
# Of short side 1500, as SA-1B: height and width as shares of it.
ASPECTS = ((1.0, 1.5), (1.5, 1.0), (1.0, 4 / 3), (1.0, 16 / 9))


def write_images(folder: Path, images: int, *, short_side: int = 1500, masks: int = 100, seed: int = 0) -> None:
    """Write `images` pairs sa_1.jpg, sa_1.json … into `folder`. At 1500 px a JPEG has about 1 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, images + 1):
        rng = np.random.default_rng((seed, number))
        height, width = (round(short_side * share) for share in ASPECTS[number % len(ASPECTS)])
        pixels_HW3 = draw_photo(rng, height, width)
        (folder / f"sa_{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels_HW3, QUALITY, "RGB", "420"))
        annotations = [_annotate(draw_mask(rng, height, width), rng, id_) for id_ in range(1, masks + 1)]
        image = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
        (folder / f"sa_{number}.json").write_text(json.dumps({"image": image, "annotations": annotations}))


def draw_photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3): noise of all octaves (clouds, foliage), objects with sharp edges, and a sensor's grain."""
    photo_HW3 = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 9):
        grid_hw3 = rng.standard_normal((2**octave, 2**octave, 3)).astype(np.float32)
        grid_hw3 = 0.35 * grid_hw3 + grid_hw3.mean(axis=2, keepdims=True)  # brightness varies more than colour
        photo_HW3 += cv2.resize(grid_hw3, (width, height), interpolation=cv2.INTER_CUBIC) * (60 / 1.6**octave)
    for _ in range(60):
        outline = _outline(rng, height, width)
        x0, y0, w, h = cv2.boundingRect(outline)
        inside = np.zeros((h, w), np.uint8)
        cv2.fillPoly(inside, [outline - (x0, y0)], 1)
        colour = rng.uniform(20, 235, 3).astype(np.float32)
        photo_HW3[y0 : y0 + h, x0 : x0 + w][inside > 0] *= 0.5
        photo_HW3[y0 : y0 + h, x0 : x0 + w][inside > 0] += 0.5 * colour
    photo_HW3 += rng.standard_normal((height, width, 1)).astype(np.float32) * 6
    return np.clip(photo_HW3, 0, 255).astype(np.uint8)


def draw_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 0/1 (H, W): one blob with a ragged outline; most are small, a few fill a good part of the image."""
    mask_HW = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask_HW, [_outline(rng, height, width)], 1)
    return mask_HW


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A closed, ragged line around a random place: int32 (N, 2), x and y inside of the image."""
    side = min(height, width)
    radius = side * float(np.exp(rng.uniform(np.log(0.008), np.log(0.25))))
    centre = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    angle_N = np.linspace(0, 2 * np.pi, max(12, int(radius)), endpoint=False)
    waves = [rng.normal() * 0.3 / k * np.cos(k * angle_N + rng.uniform(0, 2 * np.pi)) for k in range(2, 9)]
    radius_N = radius * np.clip(1 + sum(waves), 0.2, 2.5) + rng.normal(0, 1, angle_N.size)
    xy = np.stack([centre[0] + radius_N * np.cos(angle_N), centre[1] + radius_N * np.sin(angle_N)], axis=1)
    return np.clip(xy, 0, (width - 1, height - 1)).astype(np.int32)


def _annotate(mask_HW: np.ndarray, rng: np.random.Generator, number: int) -> dict[str, Any]:
    """One entry of SA-1B's `annotations`."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    height, width = mask_HW.shape
    return {
        "id": number,
        "bbox": [left, top, int(columns[-1]) - left, int(rows[-1]) - top],
        "area": int(mask_HW.sum()),
        "segmentation": encode_mask(mask_HW),
        "predicted_iou": round(float(rng.uniform(0.88, 1)), 16),
        "stability_score": round(float(rng.uniform(0.95, 1)), 16),
        "point_coords": [[float(columns[columns.size // 2]), float(rows[rows.size // 2])]],
        "crop_box": [0, 0, width, height],
    }
