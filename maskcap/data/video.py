"""One frame of a video file → uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.image_checks import check_pixel_limit, check_size, fail, shown_size, turn
from maskcap.data.record import ImageRef, Member
from maskcap.data.video_decoder import VideoDecoder, decoder_cache

_REASON = "unreadable video"
# Signs of a display matrix's a, b, c, d, which show pixel (x, y) at (a·x + c·y, b·x + d·y) → EXIF's orientation.
_ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def read_frame(ref: ImageRef, where: str) -> np.ndarray:
    """Decode frame `ref.frame` (0 is the first presented): uint8 (H, W, 3), RGB, contiguous. Raises ImageDecodeError.

    The process keeps the last few videos open with their time stamps (see DecoderCache). Cost: decoding from the last
    key frame before the wanted one, or from the last frame that was read, if that is nearer; for a video that is not
    open, reading its file through once on top. A frame that the video asks players to turn is turned if `ref` is
    `upright`, and an error otherwise.
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


def orientation_of_frame(frame: Any | None, where: str) -> int:
    """How players turn a decoded frame, as EXIF's orientation 1 (not at all) … 8.

    Raises ImageDecodeError for a frame that could not be decoded (None), or that is to be turned by other angles.
    """
    if frame is None:
        fail(where, "the first frame cannot be decoded. Fetch the video again", _REASON)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    parts = np.sign(np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]])
    orientation = _ORIENTATIONS.get(tuple(parts.tolist()))
    if orientation is None:
        problem = f"the video asks players to rotate it by {frame.rotation}°, no quarter. Encode it anew, upright"
        fail(where, problem, "orientation tag")
    return orientation


def _read(decoder: VideoDecoder, ref: ImageRef, where: str) -> np.ndarray:
    check_pixel_limit(decoder.height, decoder.width, where)
    if not ref.upright:  # else the frame says how it is shown
        check_size(ref, decoder.height, decoder.width, where)
    assert ref.frame is not None
    if not 0 <= ref.frame < decoder.n_frames:
        problem = f"frame {ref.frame} is asked for, but the video has {decoder.n_frames}. Is it cut off?"
        fail(where, problem, _REASON)
    frame = decoder.frame(ref.frame)
    if frame is None:
        fail(where, f"frame {ref.frame} of {decoder.n_frames} cannot be decoded. Fetch the video again", _REASON)
    orientation = orientation_of_frame(frame, where)
    shown = shown_size(frame.height, frame.width, orientation) if ref.upright else (frame.height, frame.width)
    check_size(ref, *shown, where)  # a stream may change it on the way
    if orientation != 1 and not ref.upright:
        fail(
            where,
            f"the video asks players to rotate it by {frame.rotation}° (as EXIF's orientation {orientation}), and its "
            "masks could be meant for either view",
            "orientation tag",
        )
    return turn(frame.to_ndarray(format="rgb24"), orientation)
