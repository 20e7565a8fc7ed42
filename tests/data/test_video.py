"""Frames of videos: the n-th frame is the one that plain decoding gives n-th."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.record import ImageRef
from maskcap.errors import ImageDecodeError

HEIGHT, WIDTH, FRAMES = 48, 64, 40


@pytest.fixture(params=["constant", "variable"])
def video(request, tmp_path) -> Path:
    """H.264 with B-frames and a key frame every 12, at 24 frames a second or with uneven time stamps."""
    path = tmp_path / "a.mp4"
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.stack([x * 3 + i, y * 3, x + y + 5 * i], -1).astype(np.uint8))
            frame.pts = i if request.param == "constant" else i + i // 5
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_every_frame_equals_plain_decoding(video):
    with av.open(str(video)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(expected) == FRAMES
    for i in (0, 1, 4, 11, 12, 13, 23, 36, 39):
        pixels = read_image(ImageRef(video, HEIGHT, WIDTH, frame=i))
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected[i])


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_errors_name_key_file_and_problem(video, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:500])
    cases = [
        (ImageRef(video, HEIGHT, WIDTH, frame=FRAMES), f"frame {FRAMES} is asked for, but the video has {FRAMES}"),
        (ImageRef(video, HEIGHT, WIDTH, frame=-1), "frame -1"),
        (ImageRef(video, WIDTH, HEIGHT, frame=0), f"its annotation says {WIDTH} × {HEIGHT}"),
        (ImageRef(tmp_path / "none.mp4", HEIGHT, WIDTH, frame=0), "no such video"),
        (ImageRef(tmp_path / "cut.mp4", HEIGHT, WIDTH, frame=0), "damaged"),
    ]
    for ref, problem in cases:
        with pytest.raises(ImageDecodeError) as caught:
            read_image(ref, key="sav/train/sav_1/0")
        assert str(caught.value).startswith(f"sav/train/sav_1/0: {ref.path}: ") and problem in str(caught.value)
