"""A picture without an annotation: its pixels as viewers show them, or one error that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.data.picture import read_picture
from maskcap.errors import ImageDecodeError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_pixels_are_the_files(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), PIXELS)
    Image.fromarray(PIXELS).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_picture(str(tmp_path / "alpha.png")), PIXELS)


@pytest.mark.parametrize("orientation", [5, 6, 8])
def test_a_quarter_turn(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    expected = {5: PIXELS.transpose(1, 0, 2), 6: np.rot90(PIXELS, -1), 8: np.rot90(PIXELS)}[orientation]
    assert np.array_equal(read_picture(tmp_path / "a.png"), expected)


@pytest.mark.parametrize(
    ("content", "message"), [(b"text", "not an image file"), (b"", "empty"), (b"\xff\xd8\xff", "JPEG")]
)
def test_what_is_no_picture(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageDecodeError, match=message) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(ImageDecodeError, match="no such file"):
        read_picture(path)
