"""What tests/data/test_video.py runs in a process of its own: a video that is read before and beside forked workers."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from maskcap.data.images import read_image
from maskcap.data.record import ImageRef
from maskcap.data.video_decoder import decoder_cache


def decoded(path: Path) -> list[np.ndarray]:
    """All frames, by decoding from the start to the end."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_beside_forked_workers(video: Path, height: int, width: int) -> None:
    """Raises AssertionError for a wrong frame, here or in one of two workers."""
    expected = decoded(video)
    ref = ImageRef(video, height, width, frame=14)
    assert np.array_equal(read_image(ref), expected[14])  # the parent's decoder stands in the middle
    parents = decoder_cache()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def work() -> None:
        """Hands over some frames."""
        assert decoder_cache() is not parents
        for i in (15, 3, 30, 16):
            answers.put((i, read_image(replace(ref, frame=i))))

    workers = [context.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(8):
        i, pixels = answers.get(timeout=60)
        other = (7 * i) % len(expected)
        assert np.array_equal(pixels, expected[i])
        assert np.array_equal(read_image(replace(ref, frame=other)), expected[other])
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
