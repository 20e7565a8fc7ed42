"""FolderSource on plain folders written here: binary masks, index images, a file for each object, captions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.data.images import read_image
from maskcap.data.sources import FolderSource
from maskcap.data.split import split_part
from tests.data.sources.plain_folder import (
    HEIGHT,
    ONE,
    THREE,
    TWO,
    WIDTH,
    line,
    masks_of,
    save,
    write,
    write_plain,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "mine")


def test_every_form_of_mask_and_its_captions(root: Path):
    source = FolderSource(root)
    assert (source.name, source.has_captions, source.has_phrases, source.has_turns) == ("folder", True, True, False)
    assert [source.key_of(i) for i in range(4)] == [
        f"folder/mine/{name}" for name in ("apart", "binary", "index", "silent")
    ]
    records = {record.key.rpartition("/")[2]: record for record in source}
    said = {name: {r.id: r.captions for r in record.regions1} for name, record in records.items()}
    assert said == {
        "apart": {"apart/a.png": (), "apart/b.png": ("the tall one",)},
        "binary": {"binary.png": ("the box", "a red box")},
        "index": {"index.png#1": (), "index.png#2": ("the wide one",)},
        "silent": {"silent.png": ()},
    }
    drawn = {"apart/a.png": TWO, "apart/b.png": THREE, "binary.png": ONE, "index.png#1": ONE, "index.png#2": TWO}
    drawn["silent.png"] = ONE
    found = {name: mask for record in records.values() for name, mask in masks_of(record).items()}
    assert found.keys() == drawn.keys()
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, drawn[name], name)
    image = records["index"].image1
    assert image is not None and read_image(image).mean() == 50
    assert source.skipped == {} and source.bad == {} and source.text_size_of(0) is None
    assert source.image_of(1) == root / "images" / "binary.jpg"


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGB", "RGBA", "I;16"])
def test_palettes_grey_in_any_channels_and_16_bits(root: Path, mode: str):
    values = (300 * ONE.astype(np.uint16) + 7 * TWO) if mode == "I;16" else ONE + 2 * TWO
    save(root / "masks" / "index.png", values, None if mode == "I;16" else mode)
    write(root, [])
    found = masks_of(FolderSource(root)[2])
    numbers = (7, 300) if mode == "I;16" else (1, 2)
    assert list(found) == [f"index.png#{number}" for number in numbers]
    drawn = (TWO, ONE) if mode == "I;16" else (ONE, TWO)
    for mask, expected in zip(found.values(), drawn, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_masks_alone_a_value_of_a_binary_mask_and_what_is_left_out(root: Path):
    write(root, [line("binary.jpg", "binary.png#255", "by its value")])
    assert FolderSource(root)[1].regions1[0].captions == ("by its value",)
    (root / "captions.jsonl").unlink()
    (root / "masks" / "silent.png").unlink()
    (root / "masks" / "notes.txt").write_text("no mask")
    (root / "images" / "more").mkdir()
    (root / "images" / ".hidden").write_text("")
    source = FolderSource(root)
    assert not source.has_captions and not source.has_phrases and len(source) == 3
    assert source.skipped == {
        "files in images/ that are no .jpg or .png": 1,
        "files in masks/ that are no .png": 1,
        "images without a mask": 1,
    }
    assert pickle.loads(pickle.dumps(source))[:] == source[:]
    parts = [split_part(lambda: source, part, 0.3) for part in ("train", "val")]
    assert [[part.key_of(i) for i in range(len(part))] for part in parts] == [
        ["folder/mine/apart", "folder/mine/binary"],
        ["folder/mine/index"],
    ]


def test_a_photo_that_viewers_turn_fits_masks_of_either_view(root: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images" / "binary.jpg"
    Image.new("RGB", (HEIGHT, WIDTH), (200, 10, 10)).save(path, exif=exif)  # stored on its side
    record = FolderSource(root)[1]
    assert record.image1 is not None and (record.image1.height, record.image1.width) == (HEIGHT, WIDTH)
    assert read_image(record.image1).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(masks_of(record)["binary.png"], ONE)
