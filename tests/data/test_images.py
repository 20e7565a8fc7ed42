"""maskcap.data.images against Pillow and torch, and files that cannot be read."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from maskcap.data.images import read_image, resize_image, resize_mask, resize_to_planes
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


def _refused(path: Path, height: int = 90, width: int = 120) -> tuple[str, str]:
    """Message and reason of the error."""
    with pytest.raises(ImageDecodeError) as caught:
        read_image(ImageRef(path, height, width), key="refcoco/train/7")
    message = str(caught.value)
    assert message.startswith(f"refcoco/train/7: {path}: ")
    return message, caught.value.reason


def test_missing_empty_and_foreign_files(tmp_path):
    message, reason = _refused(tmp_path / "a.jpg")
    assert "no such file" in message and reason == "missing file"
    message, reason = _refused(tmp_path)
    assert "cannot be read" in message and reason == "unreadable image"
    bad = {b"": "empty", b"<html>404</html>": "not an image", b"\xff\xd8\xff": "not a readable JPEG"}
    for content, problem in bad.items():
        (tmp_path / "b.jpg").write_bytes(content)
        message, reason = _refused(tmp_path / "b.jpg")
        assert problem in message and reason == ("unreadable image" if b"html" in content else "truncated image")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files(tmp_path, photo_HW3, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo_HW3).save(path)
    data = path.read_bytes()
    for share in np.linspace(0.01, 0.99, 40):
        path.write_bytes(data[: int(len(data) * share)])
        message, reason = _refused(path)
        assert "Fetch it again" in message
        assert reason == "truncated image" or (suffix == "png" and share < 0.1)  # not even the header is there
    if suffix == "jpg":
        path.write_bytes(data[:-2])  # without its end marker
        assert _refused(path)[1] == "truncated image"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_other_size_than_annotated(tmp_path, photo_HW3, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo_HW3).save(path)
    message, reason = _refused(path, 120, 90)
    assert "90 × 120 pixels (height × width), its annotation says 120 × 90" in message and reason == "wrong size"


def test_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    for side in (10_000, 30_000):  # Pillow warns of the one and raises on the other
        path.write_bytes(_png_claiming(side, side))
        message, reason = _refused(path, side, side)
        assert "more than" in message and reason == "image over the pixel limit"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_an_orientation_tag_turns_pixels_only_where_the_annotation_says_so(tmp_path, photo_HW3, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo_HW3).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        turned = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if orientation == 1:
        assert np.abs(read_image(ImageRef(path, 90, 120)).astype(int) - turned).max() <= 1
        return
    # Drawn on the stored pixels or on the turned ones? Only a turned size tells.
    message, reason = _refused(path)
    assert f"orientation {orientation}" in message and "Rotate the pixels or remove the tag" in message
    assert reason == "orientation tag"
    if orientation < 5:
        assert _refused(path, 120, 90)[1] == "wrong size"
        return
    pixels = read_image(ImageRef(path, 120, 90))
    assert pixels.shape == (120, 90, 3) and pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - turned).max() <= 1
    assert _refused(path, 120, 91)[1] == "wrong size"


def test_a_turned_square_is_refused(tmp_path, photo_HW3):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo_HW3[:, :90]).save(tmp_path / "a.jpg", exif=exif)
    assert _refused(tmp_path / "a.jpg", 90, 90)[1] == "orientation tag"


def test_an_orientation_tag_behind_much_metadata_is_found(tmp_path, photo_HW3):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo_HW3).save(path, exif=exif)
    data = path.read_bytes()
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + b"x" * 60_000
    path.write_bytes(data[:2] + 3 * comment + data[2:])
    assert _refused(path)[1] == "orientation tag"
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="8"/></x:xmpmeta>'
    Image.fromarray(photo_HW3).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + data[2:])
    assert "orientation 8" in _refused(path)[0]


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_is_inverted_only_where_adobes_marker_says_so(tmp_path, adobe):
    """Flat inks, which JPEG keeps; expected by the definition of subtractive mixing."""
    path = tmp_path / "a.jpg"
    inks_4 = np.array([51, 102, 204, 26])  # cyan, magenta, yellow, black of 255
    Image.fromarray(np.broadcast_to(inks_4.astype(np.uint8), (32, 48, 4)).copy(), "CMYK").save(path, quality=100)
    data = path.read_bytes()
    marker = data.index(b"\xff\xee")
    assert data[marker + 4 : marker + 9] == b"Adobe"  # Pillow writes inverted inks, as Adobe does
    if not adobe:
        path.write_bytes(data[:marker] + data[marker + 2 + struct.unpack(">H", data[marker + 2 : marker + 4])[0] :])
        inks_4 = 255 - inks_4
    expected = (255 - inks_4[:3]) * (255 - inks_4[3]) / 255
    np.testing.assert_allclose(
        read_image(ImageRef(path, 32, 48)).reshape(-1, 3), np.tile(expected, (32 * 48, 1)), atol=2
    )


def test_ycck_jpeg_equals_pillow(tmp_path):
    """Luma and chroma of inverted inks: a CMYK file whose Adobe marker says transform 2."""
    path = tmp_path / "a.jpg"
    y, x = np.mgrid[:48, :64]
    ycck = np.stack([y * 4, 128 + x // 4, 128 - y // 4, 255 - x], axis=-1).astype(np.uint8)
    Image.fromarray(ycck, "CMYK").save(path, quality=95, subsampling=0)
    data = bytearray(path.read_bytes())
    marker = data.index(b"\xff\xee")
    data[marker + 15] = 2
    path.write_bytes(data)
    assert simplejpeg.decode_jpeg_header(bytes(data))[2] == "YCCK"
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB")).astype(int)
    assert np.abs(read_image(ImageRef(path, 48, 64)) - expected).max() <= 2


def test_progressive_and_grey_jpeg_equal_pillow(tmp_path, photo_HW3):
    for pixels in (photo_HW3, photo_HW3[..., 0]):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=90, progressive=True)
        with Image.open(tmp_path / "a.jpg") as image:
            expected = np.array(image.convert("RGB")).astype(int)
        assert np.abs(read_image(ImageRef(tmp_path / "a.jpg", 90, 120)) - expected).max() <= 1


def test_transparency_uncovers_the_colour_below(tmp_path, photo_HW3):
    alpha_HW = np.arange(90 * 120).reshape(90, 120).astype(np.uint8)
    grey_HW2 = np.stack([photo_HW3[..., 0], alpha_HW], axis=-1)
    Image.fromarray(grey_HW2).save(tmp_path / "a.png")
    grey_HW3 = np.repeat(photo_HW3[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(ImageRef(tmp_path / "a.png", 90, 120)), grey_HW3)
    Image.fromarray(np.dstack([photo_HW3, alpha_HW])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(ImageRef(tmp_path / "a.png", 90, 120)), photo_HW3)


@pytest.mark.parametrize(("suffix", "transparency"), [("png", 3), ("png", bytes(range(200))), ("gif", 3)])
def test_palette_with_transparency(tmp_path, suffix, transparency):
    colours_N3 = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    index_HW = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    image = Image.fromarray(index_HW, "P")
    image.putpalette(colours_N3.tobytes())
    image.save(tmp_path / f"a.{suffix}", transparency=transparency)
    np.testing.assert_array_equal(read_image(ImageRef(tmp_path / f"a.{suffix}", 40, 50)), colours_N3[index_HW])


def _png_of(depth: int, kind: int, samples: np.ndarray) -> bytes:
    """A PNG written by hand: samples (H, W, C), big-endian, of 8 or 16 bits; kind 0 grey, 2 RGB, 4 grey + alpha, 6."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in samples)
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0), b"IDAT" + zlib.compress(rows))
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (*chunks, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_the_high_byte(tmp_path, kind, channels):
    samples = np.random.default_rng(0).integers(0, 2**16, (20, 30, channels))
    (tmp_path / "a.png").write_bytes(_png_of(16, kind, samples))
    colour = samples[..., :3] if channels > 2 else np.repeat(samples[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(ImageRef(tmp_path / "a.png", 20, 30)), colour // 256)


def _tiff_of(order: str, bits: int, photometric: int, samples_HW: np.ndarray) -> bytes:
    """A grey, uncompressed TIFF written by hand; order "<" or ">"."""
    height, width = samples_HW.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: height}
    data = samples_HW.astype(f"{order}u{-(-bits // 8)}").tobytes()
    entries[279] = len(data)
    directory = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries)) + directory
    return head.ljust(200, b"\0") + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_0", [False, True])
def test_16_bit_tiff_keeps_the_high_byte(tmp_path, order, white_is_0):
    grey_HW = np.random.default_rng(0).integers(0, 2**16, (20, 30))
    (tmp_path / "a.tiff").write_bytes(_tiff_of(order, 16, 0 if white_is_0 else 1, grey_HW))
    if white_is_0 and order == ">":  # Pillow does not know this kind
        assert _refused(tmp_path / "a.tiff", 20, 30)[1] == "unreadable image"
        return
    expected = (2**16 - 1 - grey_HW if white_is_0 else grey_HW) // 256
    np.testing.assert_array_equal(read_image(ImageRef(tmp_path / "a.tiff", 20, 30))[..., 1], expected)


def test_pixels_of_other_kinds_are_refused(tmp_path):
    grey_HW = np.linspace(0, 1, 90 * 120).reshape(90, 120)
    Image.fromarray(grey_HW.astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray((grey_HW * 2**30).astype(np.int32)).save(tmp_path / "int.tiff")
    (tmp_path / "twelve.tiff").write_bytes(_tiff_of("<", 12, 1, np.zeros((90, 120))))  # 12 bits would look black
    for name, kind in (("float", "mode F"), ("int", "mode I"), ("twelve", "12 bits")):
        message, reason = _refused(tmp_path / f"{name}.tiff")
        assert kind in message and "Convert the file to 8-bit RGB" in message and reason == "unsupported pixels"


def test_a_stored_copy_has_its_own_size(tmp_path, photo_HW3):
    Image.fromarray(photo_HW3).save(tmp_path / "a.png")
    ref = ImageRef(tmp_path / "a.png", 1500, 2250, stored=(90, 120))
    np.testing.assert_array_equal(read_image(ref), photo_HW3)
    with pytest.raises(ImageDecodeError, match="90 × 120 pixels .*, its annotation says 1500 × 2250"):
        read_image(replace(ref, stored=None))


@pytest.mark.parametrize(("most", "scale"), [(2**16 - 1, 1), (4095, 65535 / 4095)])
def test_16_bit_pgm_keeps_the_high_byte(tmp_path, most, scale):
    grey_HW = np.random.default_rng(0).integers(0, most + 1, (20, 30))
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 %d\n" % most + grey_HW.astype(">u2").tobytes())
    pixels_HW3 = read_image(ImageRef(tmp_path / "a.pgm", 20, 30))
    assert np.abs(pixels_HW3[..., 0] - grey_HW * scale / 256).max() < 1.01
    assert (pixels_HW3 == pixels_HW3[..., :1]).all()


@pytest.mark.parametrize("size", [17, 64, 256])
def test_resize_image_is_within_two_levels_of_pillow(photo_HW3, size):
    resized = resize_image(photo_HW3, size)
    expected = np.array(Image.fromarray(photo_HW3).resize((size, size), Image.Resampling.BILINEAR))
    assert resized.shape == (size, size, 3) and resized.dtype == np.uint8 and resized.flags.c_contiguous
    planes = resize_to_planes(photo_HW3, size)
    assert planes.flags.c_contiguous and planes.flags.writeable
    np.testing.assert_array_equal(planes, resized.transpose(2, 0, 1))
    assert np.abs(resized.astype(int) - expected).max() <= 2


def test_resize_to_the_same_size_changes_nothing(photo_HW3):
    square = photo_HW3[:90, :90]
    np.testing.assert_array_equal(resize_image(square, 90), square)
    planes = resize_to_planes(square, 90)
    assert planes.flags.c_contiguous and not np.shares_memory(planes, square)
    np.testing.assert_array_equal(planes, square.transpose(2, 0, 1))
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


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "gif", "webp", "bmp"])
def test_mutated_files_are_errors_or_pixels(tmp_path, photo_HW3, suffix):
    path, rng = tmp_path / f"a.{suffix}", np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo_HW3[::4, ::4]).save(path, **({} if suffix in ("bmp", "gif") else {"exif": exif}))
    good = path.read_bytes()
    for _ in range(250):
        data = bytearray(good)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        for height, width in ((23, 30), (30, 23)):
            try:
                pixels = read_image(ImageRef(path, height, width), key="k")
            except ImageDecodeError as error:
                assert str(error).startswith(f"k: {path}: ")
            else:
                assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
