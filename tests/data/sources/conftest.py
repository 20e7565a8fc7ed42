"""Writers of tiny data sets in the published layouts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.record import Record
from maskcap.data.rle import decode_mask, encode_mask
from maskcap.data.sources import ReferringVideoSource
from tests.data.sources.referring import mevis_of, ref_youtube_vos_of

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


@pytest.fixture
def coco_rle() -> Callable[[np.ndarray], dict[str, Any]]:
    """A drawn mask as pycocotools writes it: compressed RLE with text counts."""

    def encode(mask_HW: np.ndarray) -> dict[str, Any]:
        rle: Any = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
        return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}

    return encode


@pytest.fixture
def box() -> Callable[..., np.ndarray]:
    """box(top, left, bottom, right): a rectangle as a mask, uint8 0/1 (20, 30); bottom and right are outside of it."""

    def draw(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask_HW[top:bottom, left:right] = 1
        return mask_HW

    return draw


@pytest.fixture
def spans_of() -> Callable[[Record], list[str]]:
    """The words of a grounded turn's phrases, in order."""

    def read(record: Record) -> list[str]:
        (turn,) = record.turns
        return [turn.answer[phrase.start : phrase.end] for phrase in turn.phrases]

    return read


@pytest.fixture
def masks_of() -> Callable[[Record], list[np.ndarray]]:
    """The masks of a grounded turn's phrases, in order, at the image's size."""

    def read(record: Record) -> list[np.ndarray]:
        image = record.image1
        assert image is not None
        return [
            decode_mask(record.regions1[phrase.region].mask, image.height, image.width)
            for phrase in record.turns[0].phrases
        ]

    return read


@pytest.fixture
def mevis(tmp_path: Path) -> Callable[..., ReferringVideoSource]:
    """mevis(expressions of "dance", its frames=None, **options) → source; see `mevis_of`."""
    return functools.partial(mevis_of, tmp_path)


@pytest.fixture
def ref_youtube_vos(tmp_path: Path) -> Callable[..., ReferringVideoSource]:
    """ref_youtube_vos(content of mask_dict.pkl, **options) → source; see `ref_youtube_vos_of`."""
    return functools.partial(ref_youtube_vos_of, tmp_path)
