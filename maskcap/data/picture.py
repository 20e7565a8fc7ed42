"""A picture that somebody names on the command line, with no annotation to compare it with."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np

from maskcap.data.content import read_bytes
from maskcap.data.image_checks import QUARTER_TURNS, orientation_of
from maskcap.data.images import decode_image
from maskcap.data.record import ImageRef


def read_picture(path: str | Path) -> np.ndarray:
    """Read a still image as viewers show it: uint8 (H, W, 3), RGB, turned by a quarter where its EXIF tag asks.

    Formats and pixels as in `read_image`. Raises ImageDecodeError naming the path, and what `read_image` raises but for
    sizes; an EXIF tag that asks for half a turn or a mirror is an error there, and so it is here.
    """
    path = Path(path)
    data = read_bytes(path, str(path))
    height, width = _shown_size(data)
    return decode_image(data, ImageRef(path, height, width), str(path))


def _shown_size(data: bytes) -> tuple[int, int]:
    """Height and width from the header; (1, 1) where it cannot be read, which decoding says better."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as image:
                turned = orientation_of(image) in QUARTER_TURNS
                return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error …
        return 1, 1
