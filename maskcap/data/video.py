"""One frame of a video file → uint8 RGB."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskcap.data.images import check_size, fail
from maskcap.data.record import ImageRef


def read_frame(ref: ImageRef, where: str) -> np.ndarray:
    """Decode frame `ref.frame` (0 is the first presented): uint8 (H, W, 3), RGB. Raises ImageDecodeError.

    The file is read through once without decoding, for the time stamps of its frames; then it is decoded from the last
    key frame before the wanted one. Cost: up to one group of pictures.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(ref.path)) as container:
            return _decode(container, ref, where)
    except FileNotFoundError:
        fail(where, "no such video file. Fetch it, or correct the videos' folder")
    except FFmpegError as error:
        fail(where, f"the video is damaged or of an unknown kind ({error}). Fetch it again")


def _decode(container: Any, ref: ImageRef, where: str) -> np.ndarray:
    if not container.streams.video:
        fail(where, "the file has no video stream")
    stream = container.streams.video[0]
    check_size(ref, stream.height, stream.width, where)
    stamps = sorted({p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard})
    assert ref.frame is not None
    if not 0 <= ref.frame < len(stamps):
        fail(
            where, f"frame {ref.frame} is asked for, but the video has {len(stamps)}. Is it cut off, or another video?"
        )
    wanted = stamps[ref.frame]
    container.seek(wanted, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= wanted:
            break
    else:
        frame = None
    if frame is None or frame.pts != wanted or frame.is_corrupt:
        fail(where, f"frame {ref.frame} of {len(stamps)} cannot be decoded. Fetch the video again")
    if getattr(frame, "rotation", 0):
        fail(
            where,
            f"the video asks players to rotate it by {frame.rotation}°, and its masks could be meant for either view",
        )
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
