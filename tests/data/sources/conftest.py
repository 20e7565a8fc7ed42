"""Writers of tiny data sets in the published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcap.data.rle import encode_mask

HEIGHT, WIDTH = 20, 30


def box_rle(top: int, left: int, size: int = 5) -> dict[str, Any]:
    """Compressed RLE of a square in an image of 20 × 30; size 0 is an empty mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + size, left : left + size] = 1
    return encode_mask(mask)


@pytest.fixture
def rle() -> Callable[..., dict[str, Any]]:
    return box_rle


@pytest.fixture
def write_image() -> Callable[[Path], Path]:
    """Writes a grey JPEG of 20 × 30 pixels, and its folder."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(path)
        return path

    return write


@pytest.fixture
def write_json() -> Callable[[Path, Any], Path]:
    def write(path: Path, content: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write
