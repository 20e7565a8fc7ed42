"""ImageFolders: which file a name means, and names that mean none."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcap.data.sources.files import ImageFolders
from maskcap.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """images/ with 1.jpg, a/1.jpg, a..b/2.jpg, train2017/3.jpg and train2014/COCO_train2014_4.jpg; 9.jpg outside."""
    root = tmp_path / "images"
    for name in ("1.jpg", "a/1.jpg", "a..b/2.jpg", "train2017/3.jpg", "train2014/COCO_train2014_4.jpg", "../9.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


FOUND = [
    # name, as COCO's sets are read, with its folder kept, exactly
    ("1.jpg", "1.jpg", "1.jpg", "1.jpg"),
    ("a/1.jpg", "a/1.jpg", "a/1.jpg", "a/1.jpg"),
    ("a\\1.jpg", "a/1.jpg", "a/1.jpg", "a/1.jpg"),
    ("./a/1.jpg", "a/1.jpg", "a/1.jpg", "a/1.jpg"),
    ("b/1.jpg", "1.jpg", None, None),
    ("a..b/2.jpg", "a..b/2.jpg", "a..b/2.jpg", "a..b/2.jpg"),
    ("3.jpg", "train2017/3.jpg", "train2017/3.jpg", None),
    ("4.jpg", "train2014/COCO_train2014_4.jpg", "train2014/COCO_train2014_4.jpg", None),
    ("train2014/4.jpg", "train2014/COCO_train2014_4.jpg", "train2014/COCO_train2014_4.jpg", None),
    ("../9.jpg", None, None, None),
    ("a/../1.jpg", None, None, None),
    ("/1.jpg", None, None, None),
    ("x" * 300 + "/1.jpg", "1.jpg", None, None),
    ("x" * 300 + ".jpg", None, None, None),
    ("a\0b/1.jpg", "1.jpg", None, None),
    ("", None, None, None),
]


@pytest.mark.parametrize(("name", "coco", "kept", "exact"), FOUND)
def test_what_a_name_finds(images: Path, name: str, coco: str | None, kept: str | None, exact: str | None):
    folders = ImageFolders(images), ImageFolders(images, keep_folder=True), ImageFolders(images, exact=True)
    expected = [None if each is None else images / each for each in (coco, kept, exact)]
    assert [each.find(name) for each in folders] == expected


def test_absolute_names_are_refused_even_of_files_that_are_there(images: Path):
    folders = ImageFolders(images, exact=True)
    assert folders.find(str(images / "1.jpg")) is None
    for name in (str(images / "1.jpg"), "../9.jpg"):
        error = folders.missing(name, "entry 3")
        assert f"entry 3: the image {name!r} is not in the folder" in str(error)
        assert "without a leading / and .." in str(error) and error.reason == "missing file"
    assert "the image a..b/1.jpg is missing. Looked in" in str(folders.missing("a..b/1.jpg", "entry 3"))


def test_images_that_are_missing_in_all_are_an_error(images: Path):
    assert list(ImageFolders(images).find_all(["1.jpg", "7.jpg", "x" * 300 + "/7.jpg"], "told.json")) == ["1.jpg"]
    with pytest.raises(DataError, match="told.json: 1 of 1 images are missing"):
        ImageFolders(images).find_all(["7.jpg"], "told.json")
    with pytest.raises(DataError, match="no such folder of images"):
        ImageFolders(images / "none")
