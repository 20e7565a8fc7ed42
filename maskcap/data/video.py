"""One frame of a video file → uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from maskcap.data.image_checks import check_size, fail
from maskcap.data.record import ImageRef, Member
from maskcap.data.video_decoder import VideoDecoder, decoder_cache

_REASON = "unreadable video"


def read_frame(ref: ImageRef, where: str) -> np.ndarray:
    """Decode frame `ref.frame` (0 is the first presented): uint8 (H, W, 3), RGB, contiguous. Raises ImageDecodeError.

    The process keeps the last few videos open with their time stamps (see DecoderCache). Cost: decoding from the last
    key frame before the wanted one, or from the last frame that was read, if that is nearer; for a video that is not
    open, reading its file through once on top.
    """
    with open_video(ref.path, where) as decoder:
        return _read(decoder, ref, where)


@contextmanager
def open_video(path: Path | Member, where: str) -> Iterator[VideoDecoder]:
    """The video's decoder from this process's cache, for one thread at a time; what FFmpeg raises, names `where`.

    Raises ImageDecodeError for a missing, damaged or unreadable file, when it is opened or while it is used.
    """
    from av.error import FFmpegError

    cache = decoder_cache()
    with cache.lock:
        try:
            yield cache.get(path, where)
        except FileNotFoundError:
            fail(where, "no such video file. Fetch it, or correct the videos' folder", "missing file")
        except (FFmpegError, ValueError) as error:
            cache.drop(path)
            fail(where, f"the video is damaged or of an unknown kind ({error}). Fetch it again", _REASON)
        except OSError as error:
            fail(where, f"cannot be read: {error.strerror}", _REASON)


def _read(decoder: VideoDecoder, ref: ImageRef, where: str) -> np.ndarray:
    check_size(ref, decoder.height, decoder.width, where)
    assert ref.frame is not None
    if not 0 <= ref.frame < decoder.n_frames:
        problem = f"frame {ref.frame} is asked for, but the video has {decoder.n_frames}. Is it cut off?"
        fail(where, problem, _REASON)
    frame = decoder.frame(ref.frame)
    if frame is None:
        fail(where, f"frame {ref.frame} of {decoder.n_frames} cannot be decoded. Fetch the video again", _REASON)
    check_size(ref, frame.height, frame.width, where)  # a stream may change it on the way
    if frame.rotation:
        fail(
            where,
            f"the video asks players to rotate it by {frame.rotation}°, and its masks could be meant for either view",
            "orientation tag",
        )
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
