"""FolderSource on plain folders with something wrong in them: each thing is named, and its image alone is bad."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcap.data.sources import FolderSource
from maskcap.errors import DataError, ImageDecodeError
from tests.data.sources.plain_folder import (
    LINES,
    ONE,
    TWO,
    box,
    line,
    save,
    write,
    write_plain,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "mine")


LOST = "captions.jsonl:2"


@pytest.mark.parametrize(
    ("wrong", "key", "reason", "problem"),
    [
        (line("binary.jpg", "other.png", "x"), "binary", "missing mask", "no mask 'other.png'; its masks: binary"),
        (line("binary.jpg", "index.png#1", "x"), "binary", "missing mask", "binary.jpg has no mask 'index.png#1'"),
        (line("apart.jpeg", "apart/b.png#1", "x"), "apart", "missing mask", "no mask 'apart/b.png#1'; its"),
        (line("index.png", "index.png#x", "x"), "index", "missing mask", "no mask 'index.png#x'"),
        (line("binary.jpg", "binary.png", " "), "binary", "empty caption", "'caption' is empty"),
        (line("binary.jpg", "binary.png", None), "binary", "malformed record", "'caption' must be a text"),
        (line("binary.jpg", "binary.png", "x", color="red"), "binary", "malformed record", "unknown key 'color'; keys"),
        ({"image": "binary.jpg", "caption": "x"}, "binary", "malformed record", "'mask' must be a file name"),
        (line("gone.jpg", "gone.png", "x"), LOST, "missing file", "there is no image 'gone.jpg' in"),
        (["binary.jpg"], LOST, "malformed record", "expected an object with image, mask, caption"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_an_error_of_its_image_alone(root: Path, wrong: Any, key: str, reason: str, problem: str):
    write(root, [LINES[-1], wrong])
    source = FolderSource(root)
    (place,) = source.bad
    assert source.key_of(place) == f"folder/mine/{key}"
    with pytest.raises(DataError) as caught:
        source[place]
    assert problem in str(caught.value) and f"{root / 'captions.jsonl'}, line 2" in str(caught.value)
    assert caught.value.reason == reason


def test_a_line_that_is_no_json_is_named(root: Path):
    with (root / "captions.jsonl").open("a") as file:
        file.write("\n{'image': 1}\n")
    (error,) = FolderSource(root).bad.values()
    assert "captions.jsonl, line 6: not valid JSON" in str(error) and error.reason == "unreadable annotation"


def test_masks_without_an_image_and_images_of_one_name(root: Path):
    shutil.copytree(root / "masks" / "apart", root / "masks" / "nobody")
    save(root / "masks" / "alone.png", ONE)
    shutil.copy(root / "images" / "binary.jpg", root / "images" / "binary.png")
    source = FolderSource(root)
    assert {source.key_of(i): error.reason for i, error in source.bad.items()} == {
        "folder/mine/alone": "missing file",
        "folder/mine/binary": "duplicate key",
        "folder/mine/nobody": "missing file",
    }
    messages = [str(error) for error in source.bad.values()]
    assert f"{root / 'masks' / 'alone.png'}: there is no image alone (.jpg, .jpeg, .png)" in messages[0]
    assert "binary.png: " in messages[1] and "binary.jpg has the same name" in messages[1]


SOFT = (255 * ONE.astype(np.float32)).astype(np.uint8) + 90 * box(9, 3, 10, 12)


@pytest.mark.parametrize(
    ("file", "values", "reason", "problem"),
    [
        ("binary.png", ONE[:20], "wrong size", "the mask is 20 × 40, its image 24 × 40"),
        ("binary.png", ONE.T.copy(), "wrong size", "the mask is 40 × 24, its image 24 × 40"),
        ("binary.png", 0 * ONE, "empty mask", "the mask is empty"),
        ("binary.png", SOFT, "malformed bitmap", "the value 255 beside 1 others"),
        (
            "binary.png",
            ONE + 2 * TWO,
            "missing mask",
            'does not say which of 1, 2 it means: write "binary.png#{value}"',
        ),
        ("binary.png", np.stack([ONE, TWO, ONE], -1), "unreadable mask", "pixels (RGB) are neither grey nor indices"),
        ("index.png", 2 * ONE + 5 * TWO, "", ""),
        ("index.png", ONE + 5 * TWO, "missing mask", "speaks of index.png#2, and its values are 1, 5"),
        (
            "apart/a.png",
            ONE + 2 * TWO,
            "malformed bitmap",
            "a file of masks/apart/ is one object, and this one has the values",
        ),
        ("apart/b.png", ONE[:, :30], "wrong size", "the mask is 24 × 30, its image 24 × 40"),
    ],
)
def test_a_wrong_mask_is_named_when_it_is_read(root: Path, file: str, values: np.ndarray, reason: str, problem: str):
    save(root / "masks" / file, values)
    source = FolderSource(root)
    assert source.bad == {}
    keys = [source.key_of(i) for i in range(len(source))]
    place = keys.index(f"folder/mine/{file.partition('/')[0].partition('.')[0]}")
    if not problem:  # other values, and those that are spoken of among them
        assert [region.captions for region in source[place].regions1] == [("the wide one",), ()]
        return
    with pytest.raises(DataError) as caught:
        source[place]
    assert problem in str(caught.value) and str(root / "masks" / file) in str(caught.value)
    assert keys[place] in str(caught.value) and caught.value.reason == reason


def test_files_that_are_damaged(root: Path):
    path = root / "masks" / "binary.png"
    path.write_bytes(path.read_bytes()[:60])
    (root / "images" / "index.png").write_bytes(b"no image")
    source = FolderSource(root)
    with pytest.raises(DataError, match=r"folder/mine/binary: .*masks/binary\.png"):
        source[1]
    with pytest.raises(ImageDecodeError, match=r"folder/mine/index: .*images/index\.png"):
        source[2]


def test_folders_that_are_none(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"elsewhere/images: no images \(\.jpg, \.jpeg, \.png\) there\. Set data\.root"):
        FolderSource(tmp_path / "elsewhere")
    shutil.rmtree(root / "masks")
    with pytest.raises(DataError, match="all 3 records are bad"):
        FolderSource(root)
    (root / "captions.jsonl").unlink()
    with pytest.raises(DataError, match=r"no image has a mask: masks/NAME\.png"):
        FolderSource(root)
