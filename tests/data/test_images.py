"""maskcap.data.images against Pillow and torch, and files that cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from maskcap.data.images import read_image, resize_image, resize_mask
from maskcap.data.record import ImageRef
from maskcap.errors import ImageDecodeError


@pytest.fixture
def photo_HW3() -> np.ndarray:
    y, x = np.mgrid[:90, :120]
    noise = np.random.default_rng(0).integers(0, 40, (90, 120))
    return np.stack([x * 2, y * 2, (x + y) % 160 + noise], axis=-1).astype(np.uint8)


def _png_claiming(height: int, width: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_files_are_read_exactly(tmp_path, photo_HW3, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo_HW3).save(path, lossless=True)
    pixels = read_image(ImageRef(path, 90, 120))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, photo_HW3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_equals_pillow(tmp_path, photo_HW3, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo_HW3).convert(mode).save(path, quality=90)
    pixels = read_image(ImageRef(path, 90, 120))
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    assert pixels.shape == (90, 120, 3) and np.abs(pixels.astype(int) - expected).max() <= 1


def test_grey_and_palette_become_rgb(tmp_path, photo_HW3):
    for mode in ("L", "P", "1", "RGBA"):
        Image.fromarray(photo_HW3).convert(mode).save(tmp_path / "a.png")
        expected = np.array(Image.fromarray(photo_HW3).convert(mode).convert("RGB"))
        np.testing.assert_array_equal(read_image(ImageRef(tmp_path / "a.png", 90, 120)), expected)


def _refused(path: Path, height: int = 90, width: int = 120) -> str:
    with pytest.raises(ImageDecodeError) as caught:
        read_image(ImageRef(path, height, width), key="refcoco/train/7")
    message = str(caught.value)
    assert message.startswith(f"refcoco/train/7: {path}: ")
    return message


def test_missing_empty_and_foreign_files(tmp_path):
    assert "no such image file" in _refused(tmp_path / "a.jpg")
    assert "cannot be read" in _refused(tmp_path)
    for content, problem in ((b"", "empty"), (b"<html>404</html>", "not an image"), (b"\xff\xd8\xff", "JPEG")):
        (tmp_path / "b.jpg").write_bytes(content)
        assert problem in _refused(tmp_path / "b.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files(tmp_path, photo_HW3, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo_HW3).save(path)
    data = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        assert "Fetch it again" in _refused(path)
    path.write_bytes(data[:-2] if suffix == "jpg" else data)  # without its end marker
    if suffix == "jpg":
        assert "truncated or damaged" in _refused(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_other_size_than_annotated(tmp_path, photo_HW3, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo_HW3).save(path)
    assert "90 × 120 pixels (height × width), its annotation says 120 × 90" in _refused(path, 120, 90)


def test_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    for side in (10_000, 30_000):  # Pillow warns of the one and raises on the other
        path.write_bytes(_png_claiming(side, side))
        assert "more than" in _refused(path, side, side)


def test_orientation_tag_and_deep_pixels_are_refused(tmp_path, photo_HW3):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png"):
        Image.fromarray(photo_HW3).save(tmp_path / f"a.{suffix}", exif=exif)
        assert "orientation 6" in _refused(tmp_path / f"a.{suffix}")
    Image.fromarray(photo_HW3[..., 0].astype(np.uint16) * 100).save(tmp_path / "deep.png")
    assert "I;16" in _refused(tmp_path / "deep.png")


@pytest.mark.parametrize("size", [17, 64, 256])
def test_resize_image_is_within_two_levels_of_pillow(photo_HW3, size):
    resized = resize_image(photo_HW3, size)
    expected = np.array(Image.fromarray(photo_HW3).resize((size, size), Image.Resampling.BILINEAR))
    assert resized.shape == (size, size, 3) and resized.dtype == np.uint8 and resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - expected).max() <= 2


def test_resize_to_the_same_size_changes_nothing(photo_HW3):
    square = photo_HW3[:90, :90]
    np.testing.assert_array_equal(resize_image(square, 90), square)
    np.testing.assert_array_equal(resize_mask(square[..., 0] % 2, 90), square[..., 0] % 2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_resize_mask_equals_torch_nearest(order):
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 200), (16, 32), (64, 64), (127, 33), (427, 640), *rng.integers(1, 90, (20, 2))]:
        mask = np.array(rng.random((height, width)) < 0.5, dtype=np.uint8, order=order)
        for size in (1, 7, 16, 32, 64, 100):
            expected = functional.interpolate(torch.tensor(mask)[None, None], (size, size), mode="nearest")[0, 0]
            resized = resize_mask(mask, size)
            assert resized.flags.c_contiguous and resized.dtype == np.uint8
            np.testing.assert_array_equal(resized, expected.numpy())
