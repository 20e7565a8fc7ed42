"""Image and video files as they go into a tar: byte for byte, or stills resized."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from maskcap.data.content import read_bytes
from maskcap.data.image_checks import expected_size
from maskcap.data.images import decode_image, resize_image
from maskcap.data.record import ImageRef
from maskcap.data.shards.encode import StoredFile
from maskcap.data.shards.plan import ShardOptions

# What a file starts with, at that byte → its extension. Names are not trusted: some readers unpickle by extension.
_STARTS = (
    (0, b"\xff\xd8", "jpg"),
    (0, b"\x89PNG", "png"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (0, b"GIF8", "gif"),
    (0, b"P5", "pgm"),
    (0, b"P6", "ppm"),
    (4, b"ftyp", "mp4"),
    (0, b"\x1aE\xdf\xa3", "mkv"),
    (8, b"AVI ", "avi"),
)


def store_file(ref: ImageRef, key: str, options: ShardOptions) -> StoredFile:
    """The file of an image or of a video's frame as it is stored; its name is its extension, by content.

    With `options.resize`, a still of more pixels than resize² becomes a JPEG of resize × resize. Raises DataError.
    """
    where = f"{key}: {ref.path}"
    data, stored = read_bytes(ref.path, where), ref.stored
    size = options.resize
    if size is not None and ref.frame is None:
        height, width = expected_size(ref)
        if height * width > size * size:
            pixels_SS3 = resize_image(decode_image(data, ref, where), size)
            data, stored = _as_jpeg(pixels_SS3, options.quality, _subsampling(data)), (size, size)
    return StoredFile(extension(data), data, hashlib.sha256(data).hexdigest(), stored)


def extension(data: bytes) -> str:
    """By the first bytes; "bin" for what none of the readers knows."""
    for at, start, name in _STARTS:
        if data[at : at + len(start)] == start:
            return name
    return "bin"


def _as_jpeg(pixels_SS3: np.ndarray, quality: int, subsampling: str) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(pixels_SS3, quality=quality, colorspace="RGB", colorsubsampling=subsampling)


def _subsampling(data: bytes) -> str:
    """A JPEG's own; 4:4:4 for everything else, so that no colour is lost that was there."""
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        return "444"
    header: Any = simplejpeg.decode_jpeg_header(data)
    return header[3] if header[3] in ("444", "422", "420", "440", "411", "Gray") else "444"
