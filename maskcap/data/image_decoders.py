"""Bytes of a still image → uint8 RGB: JPEG by libjpeg-turbo, the rest by Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from maskcap.data.image_checks import (
    MAX_PIXELS,
    QUARTER_TURNS,
    check_orientation,
    check_size,
    expected_size,
    fail,
    orientation_of,
    turn,
)
from maskcap.data.record import ImageRef

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Modes that Pillow turns into 8-bit RGB without losing more than transparency. 16 bits of RGB or of grey with alpha are
# RGB and LA by then: Pillow's decoders keep the high byte of each.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_GREY_16_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_APP1, _APP14, _START_OF_SCAN = 0xE1, 0xEE, 0xDA
_END_OF_IMAGE = b"\xff\xd9"


def decode_jpeg(data: bytes, ref: ImageRef, where: str) -> np.ndarray:
    """A JPEG's pixels, uint8 (H, W, 3): baseline or progressive; colour, grey, CMYK or YCCK.

    Inks are mixed without a colour profile, and read as inverted where an Adobe marker says so. Size and orientation
    are checked before decoding. Raises ImageDecodeError.
    """
    import simplejpeg

    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        reason = "unreadable image" if _END_OF_IMAGE in data else "truncated image"
        fail(where, f"not a readable JPEG ({error}). Fetch it again", reason)
    height, width, colorspace, _ = header
    segments = dict(_segments(data))
    orientation = _jpeg_orientation(data) if _APP1 in segments else 1
    turned = check_orientation(ref, orientation, height, width, where)
    inks = colorspace in ("CMYK", "YCCK")
    try:
        # Strict: a warning is damaged data. At full size: libjpeg's halves are faster by a sixth, and, once resized,
        # off by up to 13 grey levels.
        pixels: Any = simplejpeg.decode_jpeg(data, "CMYK" if inks else "RGB")
    except ValueError as error:
        fail(where, f"the JPEG is truncated or damaged ({error}). Fetch it again", "truncated image")
    if inks:
        pixels = _mix_inks(pixels if segments.get(_APP14, b"")[:5] == b"Adobe" else 255 - pixels)
    return turn(pixels, orientation) if turned else pixels


def decode_with_pillow(data: bytes, ref: ImageRef, where: str) -> np.ndarray:
    """Pixels of PNG, WebP, BMP, TIFF, GIF or PPM (the first picture of several), uint8 (H, W, 3); alpha is dropped.

    16 bits become 8 by their high byte. Size and orientation are checked before decoding. Raises ImageDecodeError.
    """
    with warnings.catch_warnings():
        # Pillow warns of oversized and of malformed headers, and goes on.
        warnings.simplefilter("error")
        image = _open(data, where)
        if (image.width, image.height) != expected_size(ref):  # the size of an image that is to be turned
            check_size(ref, image.height, image.width, where)
        _check_mode(image, where)
        is_tiff = image.format == "TIFF"
        orientation = orientation_of(image) if is_tiff else 1  # Pillow turns a TIFF while it decodes, and drops the tag
        try:
            pixels_HW3 = _to_rgb(image)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, zlib.error …
            fail(where, f"the image is truncated or damaged ({error}). Fetch it again", "truncated image")
        height, width, _ = pixels_HW3.shape
        if not is_tiff:
            orientation = orientation_of(image)  # only now: in a PNG, the tag may come after the pixels
        elif orientation in QUARTER_TURNS:
            height, width = width, height
        turned = check_orientation(ref, orientation, height, width, where)
    return turn(pixels_HW3, orientation) if turned and not is_tiff else pixels_HW3


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and the first 12 bytes of each segment before a JPEG's pixels."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _START_OF_SCAN:
            return
        if marker == 0xFF:  # padding
            place += 1
            continue
        yield marker, data[place + 4 : place + 16]
        place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))


def _jpeg_orientation(data: bytes) -> int:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels are libjpeg-turbo's matter
            return orientation_of(Image.open(BytesIO(data), formats=("JPEG",)))
    except Exception:  # likewise
        return 1


def _mix_inks(light_HW4: np.ndarray) -> np.ndarray:
    """How much light each of cyan, magenta, yellow and black lets pass, uint8 → RGB, uint8 (H, W, 3)."""
    black_HW1 = light_HW4[..., 3:].astype(np.uint16)
    return ((light_HW4[..., :3] * black_HW1 + 127) // 255).astype(np.uint8)


def _open(data: bytes, where: str) -> Any:
    from PIL import Image

    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = f"the image has more than {MAX_PIXELS} pixels. Make a smaller copy"
        fail(where, problem, "image over the pixel limit")
    except Image.UnidentifiedImageError:
        fail(where, f"not an image file that can be read ({', '.join(_FORMATS)}). Fetch it again")
    except Exception as error:  # a malformed header: OSError, SyntaxError, ValueError, struct.error …
        fail(where, f"the image's header is damaged ({error}). Fetch it again")


def _check_mode(image: Any, where: str) -> None:
    kind = f"pixels of mode {image.mode}"
    if image.mode in _GREY_16_BIT:
        # A TIFF of 12 bits has the same mode, and a high byte that is nearly black.
        bits = image.tag_v2.get(_TIFF_BITS, (16,)) if image.format == "TIFF" else (16,)
        if tuple(bits) == (16,):
            return
        kind = f"pixels of {bits[0]} bits"
    elif image.mode in _MODES or _is_16_bit_pgm(image):
        return
    problem = f"{kind} are not 8-bit or 16-bit colour or grey. Convert the file to 8-bit RGB"
    fail(where, problem, "unsupported pixels")


def _is_16_bit_pgm(image: Any) -> bool:
    """Pillow gives a PGM of more than 8 bits as integers, stretched to 0 … 65535."""
    return image.format == "PPM" and image.mode == "I"


def _to_rgb(image: Any) -> np.ndarray:
    if image.mode in _GREY_16_BIT or _is_16_bit_pgm(image):
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
            grey_HW = 255 - grey_HW  # white is 0; Pillow knows it of 8 bits only
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette with alpha warns on its way to RGB
    return np.array(image.convert("RGB"))
