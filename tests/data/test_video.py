"""Frames of videos: the n-th frame is the one that plain decoding gives n-th."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.record import ImageRef, Member
from maskcap.data.video_decoder import DecoderCache, VideoDecoder
from maskcap.errors import ImageDecodeError, ShardError
from tests.data.forked_readers import decoded, read_beside_forked_workers
from tests.processes import run_ranks

HEIGHT, WIDTH, FRAMES = 48, 64, 40


@pytest.fixture(params=["constant", "variable"])
def video(request, tmp_path) -> Path:
    """H.264 with B-frames and a key frame every 12, at 24 frames a second or with uneven time stamps."""
    numbers = range(FRAMES) if request.param == "constant" else [i + i // 5 for i in range(FRAMES)]
    return _write(tmp_path / "a.mp4", numbers)


def _write(path: Path, stamps: Iterable[int]) -> Path:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    stamps = list(stamps)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in stamps:
            frame = av.VideoFrame.from_ndarray(np.stack([x * 3 + i, y * 3, x + y + 5 * i], -1).astype(np.uint8))
            frame.pts = i - stamps[0]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _orders() -> dict[str, list[int]]:
    rng = np.random.default_rng(0)
    return {
        "forward": list(range(FRAMES)),
        "backward": list(range(FRAMES))[::-1],
        "by four": [*range(0, FRAMES, 4), *range(0, FRAMES, 4)],
        "the same again": [7, 7, 0, 0, 39, 39],
        "random": rng.integers(0, FRAMES, 60).tolist(),
    }


@pytest.mark.parametrize("order", _orders())
def test_every_frame_equals_plain_decoding(video, order):
    expected = decoded(video)
    assert len(expected) == FRAMES
    for i in _orders()[order]:
        pixels = read_image(ImageRef(video, HEIGHT, WIDTH, frame=i))
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
        np.testing.assert_array_equal(pixels, expected[i])


def test_decoding_begins_at_the_key_frame_or_goes_on(video, monkeypatch):
    with av.open(str(video)) as container:
        packets = sorted((p.pts, p.is_keyframe) for p in container.demux(video=0) if p.pts is not None)
    keys = [number for number, (_, is_key) in enumerate(packets) if is_key]
    assert len(packets) == FRAMES and len(keys) >= 4
    decoder = VideoDecoder(str(video))
    decoded: list[int] = []
    seek = decoder._from_key_frame

    def counted(key: int) -> Iterator[Any]:
        for frame in seek(key):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoder, "_from_key_frame", counted)
    monkeypatch.setattr(decoder, "_from_start", lambda: pytest.fail("went back to the start"))
    last = FRAMES
    for number in (30, 31, 34, 5, 4, 11, 12, 12, 39, 0, 1, 3, 21, 22, 23, 24):
        decoded.clear()
        assert decoder.frame(number) is not None
        key = max(k for k in keys if k <= number)
        assert len(decoded) == (number - last if key <= last < number else number - key + 1), number
        last = number
    decoder.close()


def test_a_forked_worker_reads_right_frames_beside_its_parent(video, tmp_path):
    """In a process of its own: forking this one, whose threads may hold locks, could hang."""
    output = tmp_path / "output"
    assert run_ranks(read_beside_forked_workers, video, HEIGHT, WIDTH, output=output) == [0], (
        output / "rank0.txt"
    ).read_text()


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_a_replaced_file_is_read_anew(video, tmp_path):
    ref = ImageRef(video, HEIGHT, WIDTH, frame=20)
    before = read_image(ref)
    _write(tmp_path / "b.mp4", range(100, 100 + FRAMES))
    (tmp_path / "b.mp4").replace(video)
    after = read_image(ref)
    np.testing.assert_array_equal(after, decoded(video)[20])
    assert (before != after).any()
    video.unlink()
    with pytest.raises(ImageDecodeError, match="no such video"):
        read_image(ref)


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_a_video_inside_of_a_tar(video, tmp_path):
    expected = decoded(video)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(video, "sav_1.mp4")
    member = Member(str(tmp_path / "a.tar"), "sav_1.mp4", 512, video.stat().st_size)  # behind one header
    for i in (13, 2, 39):
        np.testing.assert_array_equal(read_image(ImageRef(member, HEIGHT, WIDTH, frame=i)), expected[i])


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_few_videos_stay_open(video, tmp_path):
    cache = DecoderCache(videos=2)
    paths = [tmp_path / f"{i}.mp4" for i in range(3)]
    for path in paths:
        path.write_bytes(video.read_bytes())
    first, second = cache.get(paths[0], ""), cache.get(paths[1], "")
    assert cache.get(paths[0], "") is first
    cache.get(paths[2], "")  # the second is the one that was not asked for longest
    assert cache.get(paths[0], "") is first and cache.get(paths[1], "") is not second


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_members_are_kept_in_few_bytes(video, tmp_path):
    size = video.stat().st_size
    members = []
    for i in range(3):
        with tarfile.open(tmp_path / f"{i}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(video, "a.mp4")
        members.append(Member(str(tmp_path / f"{i}.tar"), "a.mp4", 512, size))
    cache = DecoderCache(videos=8, member_bytes=2 * size)
    decoders = [cache.get(member, "") for member in members]
    assert cache.get(members[2], "") is decoders[2] and cache.get(members[1], "") is decoders[1]
    assert cache.get(members[0], "") is not decoders[0]


@pytest.mark.parametrize("video", ["constant"], indirect=True)
def test_errors_name_key_file_and_problem(video, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:500])
    cases = [
        (video, HEIGHT, FRAMES, f"frame {FRAMES} is asked for, but the video has {FRAMES}", "unreadable video"),
        (video, HEIGHT, -1, "frame -1", "unreadable video"),
        (video, WIDTH, 0, f"its annotation says {WIDTH} × {WIDTH}", "wrong size"),
        (tmp_path / "none.mp4", HEIGHT, 0, "no such video", "missing file"),
        (tmp_path / "cut.mp4", HEIGHT, 0, "damaged", "unreadable video"),
        (tmp_path, HEIGHT, 0, "", "unreadable video"),
    ]
    for path, height, number, problem, reason in cases:
        ref = ImageRef(path, height, WIDTH, frame=number)
        with pytest.raises(ImageDecodeError) as caught:
            read_image(ref, key="sav/train/sav_1/0")
        assert str(caught.value).startswith(f"sav/train/sav_1/0: {ref.path}: ") and problem in str(caught.value)
        assert caught.value.reason == reason


def test_a_video_of_a_missing_shard_is_named(tmp_path):
    ref = ImageRef(Member(str(tmp_path / "gone.tar"), "a.mp4", 512, 100), 8, 8, 0)
    with pytest.raises(ShardError, match=r"gone\.tar") as caught:
        read_image(ref, key="sav/train/1")
    assert caught.value.reason == "missing shard"
