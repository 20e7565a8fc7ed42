"""Image files and video frames → uint8 RGB, and the two resizes that samples need.

Shape suffixes: H, W the original size; S the target size; 3 the channels red, green, blue.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskcap.data.content import read_bytes
from maskcap.data.image_checks import fail
from maskcap.data.record import ImageRef


def read_image(ref: ImageRef, *, key: str = "") -> np.ndarray:
    """Read a still image, or frame `ref.frame` of a video: uint8 (H, W, 3), RGB, contiguous and writable.

    JPEG by simplejpeg, other still images by Pillow (transparency is dropped, 16 bits become 8 by their high byte),
    video frames by PyAV. Frame n is the n-th in order of presentation, whatever the frame rate. A file inside of a tar
    is read as any other. An image whose EXIF tag asks viewers to turn it is turned if `ref` has the turned size,
    or is `upright`.

    Raises ImageDecodeError naming `key` and the path: missing, unreadable, truncated or damaged file, a size other than
    `ref.stored` (or `ref.height` × `ref.width`), more than MAX_PIXELS pixels, pixels that are neither of 8 nor of 16
    bits, an orientation tag that leaves open which view the masks are meant for. Raises ShardError for a bad member.
    """
    where = f"{key}: {ref.path}" if key else str(ref.path)
    if ref.frame is not None:
        from maskcap.data.video import read_frame

        return read_frame(ref, where)
    return decode_image(read_bytes(ref.path, where), ref, where)


def decode_image(data: bytes, ref: ImageRef, where: str) -> np.ndarray:
    """Decode the bytes of a still image as `read_image` does, with its errors; `where`: the sample and the file."""
    from maskcap.data.image_decoders import decode_jpeg, decode_with_pillow

    if not data:
        fail(where, "the file is empty. Fetch it again", "truncated image")
    return (decode_jpeg if data[:2] == b"\xff\xd8" else decode_with_pillow)(data, ref, where)


def resize_image(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square, uint8 (S, S, 3), aspect ratio not kept: antialiased bilinear.

    Within 2 grey levels of Pillow's BILINEAR. An image that has the size already is returned as it is.
    """
    if image_HW3.shape[:2] == (size, size):
        return image_HW3
    import cv2

    merged: Any = cv2.merge(list(resize_to_planes(image_HW3, size)))
    return merged


def resize_to_planes(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """As `resize_image`, but one plane after the other as models take them: uint8 (3, S, S), contiguous, new memory.

    About 5 ms from 1500 × 2250 to 1024; 0.3 ms for an image that has the size already.
    """
    if image_HW3.shape[:2] == (size, size):
        import cv2

        planes_3SS = np.empty((3, size, size), np.uint8)
        cv2.split(image_HW3, list(planes_3SS))  # numpy's transposed copy takes four times as long
        return planes_3SS
    import torch
    from torch.nn import functional

    if not image_HW3.flags.writeable:
        image_HW3 = image_HW3.copy()
    # A channels-last view of the same memory: torch has a SIMD path for exactly this, and it writes planes.
    image_13HW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None]
    image_13SS = functional.interpolate(image_13HW, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return image_13SS[0].contiguous().numpy()


def resize_mask(mask_HW: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask to a square, uint8 0/1 (S, S), contiguous: the pixels of torch's `interpolate(mode="nearest")`."""
    height, width = mask_HW.shape
    if (height, width) == (size, size):
        return np.ascontiguousarray(mask_HW)
    rows, columns = nearest_indices(height, size), nearest_indices(width, size)
    if mask_HW.flags.f_contiguous:
        # Decoded masks lie column by column in memory: whole columns first.
        return np.ascontiguousarray(mask_HW.T[columns][:, rows].T)
    return np.ascontiguousarray(mask_HW[rows][:, columns])


def nearest_indices(length: int, size: int) -> np.ndarray:
    """Source index of each target pixel, int64 (size,), ascending: torch's, floor(index · scale) in 32-bit floats."""
    scale = np.float32(length) / np.float32(size)
    return np.minimum(np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64), length - 1)
