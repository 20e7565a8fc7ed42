"""Image files and video frames → uint8 RGB, and the two resizes that samples need.

Shape suffixes: H, W the original size; S the target size; 3 the channels red, green, blue.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from maskcap.data.record import ImageRef
from maskcap.errors import ImageDecodeError

# Pillow's own limit against decompression bombs; a small PNG can claim gigabytes of pixels.
MAX_PIXELS = 89_478_485
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Modes that become 8-bit RGB without losing more than transparency; 16-bit ones would be clipped in silence.
_PILLOW_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_EXIF_ORIENTATION = 0x0112


def read_image(ref: ImageRef, *, key: str = "") -> np.ndarray:
    """Read a still image, or frame `ref.frame` of a video: uint8 (H, W, 3), RGB, contiguous and writable.

    JPEG by simplejpeg, other still images by Pillow (transparency is dropped), video frames by PyAV. Frame n is the
    n-th in order of presentation, whatever the frame rate.

    Raises ImageDecodeError naming `key` and the path: missing, unreadable, truncated or damaged file, a size other than
    `ref.height` × `ref.width`, more than MAX_PIXELS pixels, an orientation tag (its mask could be meant either way).
    """
    where = f"{key}: {ref.path}" if key else str(ref.path)
    if ref.frame is not None:
        from maskcap.data.video import read_frame

        return read_frame(ref, where)
    try:
        data = Path(ref.path).read_bytes()
    except FileNotFoundError:
        raise ImageDecodeError(f"{where}: no such image file. Fetch it, or correct the images' folder.") from None
    except OSError as error:
        raise ImageDecodeError(f"{where}: cannot be read: {error.strerror}.") from error
    if not data:
        fail(where, "the file is empty. Fetch it again")
    if data[:2] == b"\xff\xd8":
        return _decode_jpeg(data, ref, where)
    return _decode_with_pillow(data, ref, where)


def resize_image(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square, uint8 (S, S, 3), aspect ratio not kept: antialiased bilinear.

    Within 2 grey levels of Pillow's BILINEAR. An image that has the size already is returned as it is. About 9 ms from
    1500 × 2250 to 1024.
    """
    if image_HW3.shape[:2] == (size, size):
        return image_HW3
    import torch
    from torch.nn import functional

    if not image_HW3.flags.writeable:
        image_HW3 = image_HW3.copy()
    # A channels-last view of the same memory: torch has a SIMD path for exactly this.
    image_13HW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None]
    image_13SS = functional.interpolate(image_13HW, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(image_13SS[0].permute(1, 2, 0).numpy())


def resize_mask(mask_HW: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask to a square, uint8 0/1 (S, S), contiguous: the pixels of torch's `interpolate(mode="nearest")`."""
    height, width = mask_HW.shape
    if (height, width) == (size, size):
        return np.ascontiguousarray(mask_HW)
    rows, columns = _nearest(height, size), _nearest(width, size)
    if mask_HW.flags.f_contiguous:
        # Decoded masks lie column by column in memory: whole columns first.
        return np.ascontiguousarray(mask_HW.T[columns][:, rows].T)
    return np.ascontiguousarray(mask_HW[rows][:, columns])


def _nearest(length: int, size: int) -> np.ndarray:
    """Source index of each target pixel; torch computes floor(index · scale) in 32-bit floats, so do we."""
    scale = np.float32(length) / np.float32(size)
    return np.minimum(np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64), length - 1)


def fail(where: str, problem: str) -> NoReturn:
    """Raise ImageDecodeError for the image at `where`."""
    raise ImageDecodeError(f"{where}: {problem}{'' if problem.endswith('?') else '.'}")


def check_size(ref: ImageRef, height: int, width: int, where: str) -> None:
    """Raise ImageDecodeError unless the file's size is the annotation's and within MAX_PIXELS; before decoding."""
    if height * width > MAX_PIXELS:
        fail(where, f"{height} × {width} is more than {MAX_PIXELS} pixels. Make a smaller copy")
    if (height, width) != (ref.height, ref.width):
        fail(
            where,
            f"the file is {height} × {width} pixels (height × width), its annotation says {ref.height} × {ref.width}. "
            "Is it the image that was annotated, neither resized nor rotated?",
        )


def _decode_jpeg(data: bytes, ref: ImageRef, where: str) -> np.ndarray:
    import simplejpeg

    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        fail(where, f"not a readable JPEG ({error}). Fetch it again")
    height, width, colorspace, _ = header
    if b"Exif\0\0" in data[:65536]:
        _check_orientation(data, where)
    check_size(ref, height, width, where)
    if colorspace in ("CMYK", "YCCK"):
        return _decode_with_pillow(data, ref, where)
    try:
        return simplejpeg.decode_jpeg(data, "RGB")  # strict: a warning of libjpeg's is damaged data
    except ValueError as error:
        fail(where, f"the JPEG is truncated or damaged ({error}). Fetch it again")


def _decode_with_pillow(data: bytes, ref: ImageRef, where: str) -> np.ndarray:
    with warnings.catch_warnings():
        # Pillow warns of oversized and of malformed headers, and goes on.
        warnings.simplefilter("error")
        image = _open_with_pillow(data, where)
        check_size(ref, image.height, image.width, where)
        _check_tag(image, where)
        if image.mode not in _PILLOW_MODES:
            fail(where, f"pixels of mode {image.mode} are not 8-bit colour or grey. Convert the file to 8-bit RGB")
        try:
            return np.array(image.convert("RGB"))
        except (
            Exception
        ) as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, zlib.error, struct.error …
            fail(where, f"the image is truncated or damaged ({error}). Fetch it again")


def _open_with_pillow(data: bytes, where: str) -> Any:
    from PIL import Image

    try:
        return Image.open(BytesIO(data), formats=_PILLOW_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        fail(where, f"the image has more than {MAX_PIXELS} pixels. Make a smaller copy")
    except Image.UnidentifiedImageError:
        fail(where, f"not an image file that can be read ({', '.join(_PILLOW_FORMATS)}). Fetch it again")
    except Exception as error:  # a malformed header: as above
        fail(where, f"the image's header is damaged ({error}). Fetch it again")


def _check_orientation(data: bytes, where: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_tag(_open_with_pillow(data, where), where)


def _check_tag(image: Any, where: str) -> None:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # unreadable EXIF says nothing of orientation; the pixels are what counts
        return
    if orientation not in (0, 1):
        fail(
            where,
            f"an EXIF tag asks viewers to rotate it (orientation {orientation}); its masks may be meant for either. "
            "Rotate the pixels or remove the tag, whichever the annotation means",
        )
