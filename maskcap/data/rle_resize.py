"""Segmentation → resized mask, for run-length codes straight from their runs, without the mask at its full size.

Shape suffixes: H, W the original size; S the target size; U the columns that the target samples, each once; N runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from maskcap.data.images import nearest_indices, resize_mask
from maskcap.data.record import Segmentation
from maskcap.data.rle import check_image_size, decode_mask, parse_rle

_MAX_SIDE = 2**16


def decode_resized(
    segmentation: Segmentation, height: int, width: int, size: int, *, key: str = "", out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """A segmentation of an image of `height` × `width` pixels, resized: uint8 0/1 (S, S), contiguous; and its area.

    The same bits as `resize_mask(decode_mask(segmentation, height, width), size)`. The area is the number of pixels
    that are set at the full size: where it is not 0, the resized mask may still be empty (a region that lies between
    the sampled pixels). Segmentation, `key` and errors (MaskDecodeError) are those of `decode_mask`. An RLE of
    1500 × 2250 takes about 0.3 ms; polygons and bitmaps are decoded at their full size first.
    """
    key = key or "mask"
    check_image_size(height, width, key)
    # The tables below are as long as a side, which one claim of a broken annotation can make a quarter of a billion.
    if not isinstance(segmentation, Mapping) or max(height, width) > _MAX_SIDE:
        whole_HW = decode_mask(segmentation, height, width, key=key)
        resized_SS = resize_mask(whole_HW, size)
        if out is not None:
            out[...] = resized_SS
        return resized_SS if out is None else out, int(np.count_nonzero(whole_HW))
    runs_N = parse_rle(segmentation, height, width, key)
    return _draw_resized(runs_N, height, width, size, out), int(runs_N[1::2].sum())


def _draw_resized(runs_N: np.ndarray, height: int, width: int, size: int, out: np.ndarray | None) -> np.ndarray:
    """Each run becomes the run of its sampled pixels.

    Runs go down the columns, and so does the target's memory until the end. A run stops before column c, row r; before
    that place lie all the sampled pixels of the columns before c, and, if c is sampled, those of the rows before r.
    """
    import cv2

    before_column, before_row, copies = _sampling(height, width, size)
    columns, rows = np.divmod(np.cumsum(runs_N), height)
    ends_N = before_column[columns]
    ends_N += (before_column[columns + 1] > ends_N) * before_row[rows]
    values_N = np.zeros(runs_N.size, np.uint8)
    values_N[1::2] = 1
    mask_US = np.repeat(values_N, np.diff(ends_N, prepend=0)).reshape(-1, size)
    if copies is not None:
        mask_US = mask_US[copies]
    out = np.empty((size, size), np.uint8) if out is None else out
    # Another array would stay unwritten.
    assert out.shape == (size, size) and out.dtype == np.uint8 and out.flags.c_contiguous
    cv2.transpose(mask_US, out)  # ten times faster than numpy's transposed copy
    return out


@lru_cache(maxsize=64)  # the regions of an image share them, and so do images of one size
def _sampling(height: int, width: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """int64: sampled pixels before each column (W + 2,) and, inside of a sampled column, before each row (H,).

    Third, where columns are sampled more than once: which of the U each of the S target columns is.
    """
    columns_S = nearest_indices(width, size)
    sampled_U, copies_S = np.unique(columns_S, return_inverse=True)
    before_column = size * np.searchsorted(sampled_U, np.arange(width + 2))
    before_row = np.searchsorted(nearest_indices(height, size), np.arange(height))
    return before_column, before_row, None if sampled_U.size == size else copies_S
