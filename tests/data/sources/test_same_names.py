"""Images of one name in several folders: Describe-Anything and Sa2VA's fine-tuning layout take the one they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskcap.data.sources import DescribeAnythingSource, Sa2VAFinetuneSource

BOX = {"size": [20, 30], "counts": [0, 10, 590]}
ENTRY = {"caption": "A bar.", "mask": BOX, "image": "a.jpg"}
MEANT = {"text": ["bar"], "mask": [[[0, 0, 9, 0, 9, 9]]], "image": "a.jpg"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """images/ with a.jpg and deep/b.jpg."""
    for name in ("a.jpg", "deep/b.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(path)
    return tmp_path / "images"


def _write(images: Path, entries: list[Any]) -> Path:
    path = images.parent / "told.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("layout", [DescribeAnythingSource, Sa2VAFinetuneSource])
def test_another_folders_image_of_the_same_name_is_not_taken(
    images: Path, layout: type[DescribeAnythingSource | Sa2VAFinetuneSource]
):
    """a.jpg is there; none/a.jpg is not, nor is deep/a.jpg, though deep/b.jpg is; ../a.jpg and /a.jpg are no names."""
    entry = ENTRY if layout is DescribeAnythingSource else MEANT
    names = [
        "a.jpg",
        "none/a.jpg",
        "deep/a.jpg",
        "b.jpg",
        "../images/a.jpg",
        str(images / "a.jpg"),
        "x" * 300 + "/a.jpg",
    ]
    source = layout(_write(images, [{**entry, "id": name, "image": name} for name in names]), images)
    assert source.image_of(0) == images / "a.jpg"
    assert {i: error.reason for i, error in source.bad.items()} == dict.fromkeys(range(1, 7), "missing file")
    Image.new("RGB", (30, 20)).save(images / "deep" / "a.jpg")
    source = layout(_write(images, [{**entry, "image": name} for name in names[:3]]), images)
    assert [source.image_of(i) for i in (0, 2)] == [images / "a.jpg", images / "deep" / "a.jpg"]
    assert list(source.bad) == [1]


def test_coco_names_of_describe_anything_are_found_in_cocos_folders(images: Path):
    (images / "train2017").mkdir()
    Image.new("RGB", (30, 20)).save(images / "train2017" / "000000000009.jpg")
    entry = {**ENTRY, "image": "COCO_train2014_000000000009.jpg"}
    record = DescribeAnythingSource(_write(images, [entry]), images)[0]
    assert record.image1 is not None and record.image1.path == images / "train2017" / "000000000009.jpg"
