"""What the tests of this folder share: boxes as masks, the words of templates, pixels computed by Pillow and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco

IMAGE = f"<img>{'<IMG_CONTEXT>' * 256}</img>"
SURE = "Sure, [SEG]."


def box(height: int, width: int, top: int, left: int, size: int = 10) -> np.ndarray:
    """uint8 (H, W): a square."""
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


BOXES = np.stack([box(48, 64, 3, 5), box(48, 64, 20, 30), box(48, 64, 30, 50, 14)])


def rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's code of it."""
    return coco.encode(np.asfortranarray(mask))


def large(image: Image.Image) -> np.ndarray:
    """uint8 (1024, 1024, 3), by Pillow's default filter."""
    return np.asarray(image.resize((1024, 1024)))


def normal(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (S, S, 3) each → float32 (N, S, S, 3), ImageNet-normalised."""
    scaled = np.stack(pictures).astype(np.float32) / np.float32(255)
    return (scaled - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)


def assert_pixels(found: torch.Tensor, expected: np.ndarray) -> None:
    """(N, 3, S, S) holds (N, S, S, 3), to the bit."""
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), expected)


def assert_says(sample: dict[str, Any], expected: tuple[list[int], list[int]]) -> None:
    """Ids and labels are these, as int64 tensors."""
    for name, values in zip(("input_ids", "labels"), expected, strict=True):
        assert sample[name].dtype == torch.int64
        assert sample[name].tolist() == values
