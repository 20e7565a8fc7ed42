"""Height and width of image files and videos, for layouts whose annotations do not say."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from maskcap.data.image_checks import MAX_PIXELS, fail, orientation_of, shown_size


def image_size(path: Path, where: str, *, upright: bool = False) -> tuple[int, int]:
    """(height, width) in pixels as a still image's header has them; an orientation tag does not count. Decodes nothing.

    upright: as viewers show it, for an `upright` ImageRef. The tag of a PNG may stand behind its pixels: one that has
    none in its header, and is no square, is decoded.

    where: the sample and the file, for messages. Raises ImageDecodeError for a file that is missing, is no image or
    claims more than MAX_PIXELS pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of odd metadata; the pixels are read later, with care
            opened: Any = Image.open(path)
            with opened:
                height, width = opened.height, opened.width
                is_tiff = opened.format == "TIFF"  # Pillow says how those are shown
                if height != width and upright != is_tiff:
                    height, width = shown_size(height, width, orientation_of(opened))
                return height, width
    except FileNotFoundError:
        fail(where, "no such file. Fetch it, or correct the folder that it is looked for in", "missing file")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = f"the image has more than {MAX_PIXELS} pixels. Make a smaller copy"
        fail(where, problem, "image over the pixel limit")
    except Exception as error:  # a malformed header: OSError, SyntaxError, ValueError, struct.error …
        fail(where, f"the image's header cannot be read ({type(error).__name__}). Fetch it again")


def video_size(path: Path, where: str, *, upright: bool = False) -> tuple[int, int, int]:
    """(frames, height, width) of a video file: its packets are read through once, nothing is decoded.

    upright: as players show it, for an `upright` ImageRef; the first frame, which says so, is decoded.

    The video stays open for `read_image`. where: the sample and the file, for messages. Raises ImageDecodeError for a
    file that is missing, damaged or without frames.
    """
    from maskcap.data.video import open_video, orientation_of_frame

    with open_video(path, where) as decoder:
        if not decoder.n_frames:
            fail(where, "the video has no frames. Fetch it again", "unreadable video")
        height, width = decoder.height, decoder.width
        if upright and height != width:
            height, width = shown_size(height, width, orientation_of_frame(decoder.frame(0), where))
        return decoder.n_frames, height, width
