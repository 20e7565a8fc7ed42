"""Sizes from headers, without decoding."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from maskcap.data.image_sizes import image_size, video_size
from maskcap.errors import ImageDecodeError


def test_images_say_their_size_in_the_header(tmp_path):
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
        assert image_size(tmp_path / name, name) == (20, 30)
    cut = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])  # its pixels are cut off, its header is whole
    assert image_size(cut, "cut") == (64, 64)


@pytest.mark.parametrize(
    ("content", "reason", "problem"),
    [
        (None, "missing file", "no such file"),
        (b"", "unreadable image", "header cannot be read"),
        (b"\xff\xd8 no JPEG", "unreadable image", "header cannot be read"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content, reason, problem):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageDecodeError, match=f"the sample: .*{problem}") as caught:
        image_size(path, "the sample")
    assert caught.value.reason == reason


def test_a_claim_of_too_many_pixels_is_named(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    with pytest.raises(ImageDecodeError, match="more than 89478485 pixels") as caught:
        image_size(path, "x")
    assert caught.value.reason == "image over the pixel limit"


def test_a_video_says_its_frames_and_size(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(7):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8))))
        container.mux(stream.encode())
    assert video_size(path, "x") == (7, 48, 64)
    (tmp_path / "torn.mp4").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageDecodeError, match="the sample: the video is damaged"):
        video_size(tmp_path / "torn.mp4", "the sample")
    with pytest.raises(ImageDecodeError, match="no such video file"):
        video_size(tmp_path / "none.mp4", "x")
