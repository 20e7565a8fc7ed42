"""Mask PNGs → RLE: every value of an index image in one pass, and what is no index image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from maskcap.data.rle import decode_mask
from maskcap.data.sources import FolderSource
from maskcap.data.sources.folder_masks import encode_values, mask_objects
from maskcap.errors import DataError
from tests.data.sources.plain_folder import HEIGHT, WIDTH, line, masks_of, save, write, write_plain


@pytest.mark.parametrize("top", [1, 2, 5, 255, 300, 60_000])
def test_every_value_is_the_mask_that_numpy_and_pycocotools_say(top: int):
    """Blocks and single pixels, sides of 1, values that touch the first and the last pixel, images without a 0."""
    rng = np.random.default_rng(top)
    for height, width in [(1, 1), (1, 9), (9, 1), (40, 3), *rng.integers(2, 30, (12, 2))]:
        values_HW = rng.integers(rng.integers(2), top + 1, (height, width)).astype(np.uint16)
        values_HW[: height // 2] = values_HW[0, 0]
        found = encode_values(values_HW)
        assert list(found) == [value for value in np.unique(values_HW).tolist() if value]
        for value, rle in found.items():
            np.testing.assert_array_equal(decode_mask(rle, int(height), int(width)), values_HW == value)
            written: Any = coco.encode(np.asfortranarray(values_HW == value, dtype=np.uint8))
            assert rle == {"size": [height, width], "counts": written["counts"].decode()}
    assert encode_values(np.zeros((3, 4), np.uint8)) == {}


def _steps(count: int, dtype: type = np.uint8) -> np.ndarray:
    """(24, 40) with the values 0 … count in turn."""
    return (np.arange(HEIGHT * WIDTH) % (count + 1)).astype(dtype).reshape(HEIGHT, WIDTH)


def test_many_grey_values_are_objects_only_where_a_line_names_one(tmp_path: Path):
    root = write_plain(tmp_path / "mine")
    save(root / "masks" / "binary.png", _steps(64))
    write(root, [])
    assert len(FolderSource(root)[1].regions1) == 64
    save(root / "masks" / "binary.png", _steps(65))
    with pytest.raises(DataError, match=r"binary\.png: it has 65 values, and no line names one\. Is it one .* soft"):
        FolderSource(root)[1]
    write(root, [line("binary.jpg", "binary.png#65", "the last")])
    record = FolderSource(root)[1]
    assert [r.captions for r in record.regions1] == [()] * 64 + [("the last",)]
    np.testing.assert_array_equal(masks_of(record)["binary.png#65"], _steps(65) == 65)
    write(root, [])
    save(root / "masks" / "binary.png", _steps(65, np.uint16))  # soft edges have 8 bits
    assert len(FolderSource(root)[1].regions1) == 65


def test_more_objects_than_an_index_image_may_have_are_named(tmp_path: Path):
    values = np.arange(64 * 65, dtype=np.uint16).reshape(64, 65)  # 4159 beside 0
    values[values > 4096] = 0
    save(tmp_path / "most.png", values)
    assert list(mask_objects(tmp_path / "most.png", (64, 65), "k", indexed=True)) == list(range(1, 4097))
    values[-1, -1] = 4097
    save(tmp_path / "more.png", values)
    with pytest.raises(DataError, match=r"k: .*more\.png: it has 4097 values, and .* 4096 objects at most") as caught:
        mask_objects(tmp_path / "more.png", (64, 65), "k", indexed=True)
    assert caught.value.reason == "malformed bitmap"
