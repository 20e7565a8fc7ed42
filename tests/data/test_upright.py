"""Upright images and videos: read as viewers and players show them, whatever turn their file asks for."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from maskcap.data.image_sizes import image_size, video_size
from maskcap.data.images import read_image
from maskcap.data.record import ImageRef
from maskcap.errors import ImageDecodeError

HEIGHT, WIDTH = 48, 64


def _write(path: Path) -> Path:
    """A video of six frames, none of which is its own mirror image."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(6):
            frame = np.stack([x * 3 + i, y * 3, x + y + 5 * i], -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def _decoded(path: Path) -> list[np.ndarray]:
    """All frames as they are stored."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_an_upright_image_is_turned_as_pillow_turns_it(tmp_path, suffix, orientation):
    """Oblong, square and stored at another size: nothing is asked of masks, so that every tag can be followed."""
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drawn_HW3 = np.stack([x * 3, y * 3, x + y], -1).astype(np.uint8)
    for pixels_HW3 in (drawn_HW3, drawn_HW3[:, :HEIGHT]):
        Image.fromarray(pixels_HW3).save(path, exif=exif, quality=95, lossless=True)
        with Image.open(path) as image:
            shown = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        height, width, _ = shown.shape
        for ref in (ImageRef(path, height, width, upright=True), ImageRef(path, 7, 9, None, (height, width), True)):
            pixels = read_image(ref)
            assert pixels.shape == shown.shape and pixels.flags.c_contiguous and pixels.flags.writeable
            assert np.abs(pixels.astype(int) - shown).max() <= 1
        with pytest.raises(ImageDecodeError) as caught:
            read_image(ImageRef(path, height + 1, width, upright=True))
        assert caught.value.reason == "wrong size"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_an_images_upright_size_is_that_of_pillows_view(tmp_path, name):
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as opened:
            shown = ImageOps.exif_transpose(opened)
            assert image_size(tmp_path / name, name, upright=True) == (shown.height, shown.width)
        assert image_size(tmp_path / name, name) == (20, 30)


def test_a_pngs_tag_behind_its_pixels_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert image_size(tmp_path / "a.png", "a", upright=True) == (30, 20)
    assert read_image(ImageRef(tmp_path / "a.png", 30, 20, upright=True)).shape == (30, 20, 3)


# What players do with pixel (row, column), EXIF's way of saying it, written as the matrix {a, b, c, d} of ISO 14496-12:
# pixel (x, y) is shown at (a·x + c·y, b·x + d·y).
VIEWS = {
    "half": ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "anticlockwise": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transversed": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
}


def _ask_to_turn(path: Path, parts: tuple[float, ...]) -> None:
    """Write a display matrix into the video's track header."""
    data, (a, b, c, d) = bytearray(path.read_bytes()), (round(part * 2**16) for part in parts)
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("view", VIEWS)
def test_a_turned_video_is_read_upright_or_refused(tmp_path, view):
    path = _write(tmp_path / "a.mp4")
    (matrix, shown), stored = VIEWS[view], _decoded(path)
    _ask_to_turn(path, matrix)
    with av.open(str(path)) as container:
        asked = next(container.decode(video=0)).rotation
    if view in ("half", "clockwise", "anticlockwise"):  # FFmpeg's own reading: anticlockwise, in degrees
        np.testing.assert_array_equal(np.rot90(stored[0], asked // 90), shown(stored[0]))
    height, width = shown(stored[0]).shape[:2]
    assert video_size(path, "x", upright=True) == (6, height, width)
    assert video_size(path, "x") == (6, HEIGHT, WIDTH)
    for i in (4, 0):
        pixels = read_image(ImageRef(path, height, width, frame=i, upright=True))
        assert pixels.flags.c_contiguous and pixels.flags.writeable
        np.testing.assert_array_equal(pixels, shown(stored[i]))
    with pytest.raises(ImageDecodeError, match="its masks could be meant for either view") as caught:
        read_image(ImageRef(path, HEIGHT, WIDTH, frame=0), key="k")
    assert caught.value.reason == "orientation tag"
    with pytest.raises(ImageDecodeError) as caught:
        read_image(ImageRef(path, height, width + 1, frame=0, upright=True))
    assert caught.value.reason == "wrong size"


def test_a_video_that_is_turned_by_no_quarter_is_named(tmp_path):
    path = _write(tmp_path / "a.mp4")
    _ask_to_turn(path, (0.8, 0.6, -0.6, 0.8))
    for read in (
        lambda: video_size(path, "k", upright=True),
        lambda: read_image(ImageRef(path, HEIGHT, WIDTH, frame=0, upright=True), key="k"),
    ):
        with pytest.raises(ImageDecodeError, match=r"k.* no quarter\. Encode it anew") as caught:
            read()
        assert caught.value.reason == "orientation tag"


def test_an_upright_video_that_asks_for_nothing_is_as_it_is(tmp_path):
    path = _write(tmp_path / "a.mp4")
    assert video_size(path, "x", upright=True) == (6, HEIGHT, WIDTH)
    np.testing.assert_array_equal(read_image(ImageRef(path, HEIGHT, WIDTH, 3, upright=True)), _decoded(path)[3])
