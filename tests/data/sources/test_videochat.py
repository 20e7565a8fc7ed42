"""VideoChat: questions and answers about a video."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.sample import make_sample
from maskcap.data.sources import VideoChatSource
from maskcap.errors import DataError

HEIGHT, WIDTH, FRAMES = 32, 48, 11


def _talk(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def _said(record) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in record.turns]


def _write_video(path: Path, frames: int = FRAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "4", "bf": "2", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8))))
        container.mux(stream.encode())
    return path


@pytest.fixture
def videochat(tmp_path, write_json):
    """videochat(entries) → source, with the video Activity_Videos/v_1.mp4."""
    _write_video(tmp_path / "Activity_Videos" / "v_1.mp4")

    def make(*entries: object) -> VideoChatSource:
        return VideoChatSource(write_json(tmp_path / "video_chat.json", list(entries)), tmp_path)

    return make


def test_videochat_has_turns_about_a_videos_frames(videochat, tmp_path):
    path = tmp_path / "Activity_Videos" / "v_1.mp4"
    source = videochat(
        {
            "video": "Activity_Videos/v_1.mp4",
            "conversations": _talk("<video>\nWhat happens?", "It brightens.", "So?", "Yes."),
        },
        {
            "id": 9,
            "video": "Activity_Videos/v_1.mkv",
            "conversations": _talk("<image>\nWhat happens?", "It brightens."),
        },
    )
    assert source.name == "videochat" and source.has_turns and not source.has_captions
    record = source[0]
    assert [each.key for each in source] == ["videochat/video_chat/0", "videochat/video_chat/9"]
    assert _said(record) == [("What happens?", "It brightens."), ("So?", "Yes.")]
    assert [(ref.path, ref.frame, ref.height, ref.width) for ref in record.frames] == [
        (path, number, HEIGHT, WIDTH) for number in range(FRAMES)
    ]
    assert record.image1 == record.frames[0] and record.regions1 == () and source[1].frames == record.frames
    for number in (0, 4, FRAMES - 1):
        assert abs(int(read_image(record.frames[number])[5, 5, 1]) - 20 * number) <= 4
    assert source.image_of(0) == source.image_of(1) == path and source.text_size_of(1) == (0, 27 - 1)
    sample = make_sample(record, np.random.default_rng(0), image_size=16, frames_per_sample=5, frame_choice="middle")
    assert sample["frames"].shape == (4, 3, 16, 16) and sample["turns"] == record.turns


def test_videochat_strips_what_stands_for_the_video_alone(videochat):
    texts = "<video>\nIs <video> or <region2> one?", "<video> is.", "<image>\nWhy?\n<video>", "Because."
    source = videochat({"video": "Activity_Videos/v_1.mp4", "conversations": _talk(*texts)})
    assert _said(source[0]) == [("Is <video> or region 2 one?", "<video> is."), ("Why?", "Because.")]
    assert source.skipped == {"questions whose <regionN> was written in words": 1}


def test_a_video_on_its_side_is_seen_as_players_show_it(videochat, tmp_path):
    path = tmp_path / "Activity_Videos" / "v_1.mp4"
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # ISO 14496-12: the matrix {a, b, u, c, d, v, x, y, w} of a version 0 header
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    path.write_bytes(data)
    record = videochat({"video": "Activity_Videos/v_1.mp4", "conversations": _talk("Q", "A")})[0]
    assert [(ref.height, ref.width) for ref in record.frames] == [(WIDTH, HEIGHT)] * FRAMES
    assert read_image(record.frames[4]).shape == (WIDTH, HEIGHT, 3)


def test_videochat_building_opens_no_video(videochat, tmp_path):
    talk = _talk("Q", "A")
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "Activity_Videos" / "v_1.mp4").read_bytes()[:200])
    source = videochat(
        {"id": "t", "video": "torn.mp4", "conversations": talk},
        {"id": "n", "video": "none.mkv", "conversations": talk},
        {"id": "w", "conversations": talk},
        {"id": "o", "video": "torn.mp4", "conversations": talk[::-1]},
    )
    with pytest.raises(DataError, match=r"videochat/video_chat/t: .*torn\.mp4: the video is damaged"):
        source[0]
    assert sorted(source.bad) == [1, 2, 3] and source.bad[1].reason == "missing file"
    problems = {
        1: "the video none.mkv is missing",
        2: "expected an object with 'video'",
        3: "no question with an answer",
    }
    for index, problem in problems.items():
        with pytest.raises(DataError) as caught:
            source[index]
        assert problem in str(caught.value) and f"video_chat.json, entry {index})" in str(caught.value)
