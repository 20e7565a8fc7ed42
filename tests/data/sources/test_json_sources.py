"""DescribeAnythingSource and Sa2VAFinetuneSource on tiny sets written here in their layouts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import DescribeAnythingSource, Sa2VAFinetuneSource
from maskcap.errors import DataError, ImageDecodeError, MaskDecodeError

SIZES = {"a.jpg": (20, 30), "deep/b.jpg": (41, 17), "c.png": (12, 12)}


def box(name: str, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    drawn = np.zeros(SIZES[name], np.uint8)
    drawn[top:bottom, left:right] = 1
    return drawn


def compressed(drawn: np.ndarray) -> dict[str, Any]:
    rle: Any = coco.encode(np.asfortranarray(drawn))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def polygon(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [float(each) for each in (left, top, right, top, right, bottom, left, bottom)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, (name, (height, width)) in enumerate(SIZES.items()):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (40 * number, 90, 30)).save(path)
    return tmp_path / "images"


def write(images: Path, entries: list[Any], name: str = "annotations.json") -> Path:
    path = images.parent / name
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(lines if name.endswith(".jsonl") else json.dumps(entries))
    return path


TOLD = [
    {"id": "x7", "image": "a.jpg", "mask": compressed(box("a.jpg", 3, 4, 9, 20)), "caption": "A long grey bar."},
    {"image": "deep/b.jpg", "mask": compressed(box("deep/b.jpg", 0, 0, 41, 3)), "caption": "The left edge\u2028of it."},
    {"id": "x7", "image": "a.jpg", "mask": {"size": [20, 30], "counts": [0, 10, 590]}, "caption": "A corner."},
]


@pytest.mark.parametrize("name", ["told.json", "told.jsonl"])
def test_describe_anything_has_one_region_and_one_caption_an_entry(images: Path, name: str):
    source = DescribeAnythingSource(write(images, TOLD, name), images)
    assert [record.key for record in source] == [f"describe_anything/told/{each}" for each in ("x7", "1", "x7#2")]
    assert (source.name, source.has_captions, source.has_phrases, source.skipped) == (
        "describe_anything",
        True,
        True,
        {},
    )
    drawn = [box("a.jpg", 3, 4, 9, 20), box("deep/b.jpg", 0, 0, 41, 3), box("a.jpg", 0, 0, 10, 1)]
    for record, entry, expected in zip(source, TOLD, drawn, strict=True):
        (region,) = record.regions1
        assert region.captions == (entry["caption"],) and region.referring and record.image1 is not None
        np.testing.assert_array_equal(decode_mask(region.mask, *expected.shape), expected)
        assert record.image1.path == images / entry["image"]
        assert read_image(record.image1).shape[:2] == expected.shape
    assert source.image_of(0) == source.image_of(2) != source.image_of(1)


@pytest.mark.parametrize(
    ("wrong", "reason", "problem"),
    [
        ({**TOLD[1], "caption": " "}, "empty caption", "'caption' is empty"),
        ({**TOLD[1], "caption": ["a"]}, "malformed record", "'caption' must be a text"),
        ({"image": "a.jpg", "caption": "a"}, "malformed record", "expected an object with 'mask'"),
        ({**TOLD[1], "mask": [[1, 2, 3]]}, "malformed RLE", "'mask' must be an RLE with 'size'"),
        ({**TOLD[1], "mask": {"size": [20.5, 30], "counts": "P"}}, "malformed RLE", "'mask' must be an RLE"),
        ({**TOLD[1], "image": "gone.jpg"}, "missing file", "the image gone.jpg is missing. Looked in"),
        (["a.jpg"], "malformed record", "expected an object with 'image'"),
    ],
)
def test_a_bad_entry_of_describe_anything_is_a_record_of_its_own(images: Path, wrong: Any, reason: str, problem: str):
    path = write(images, [TOLD[0], wrong])
    source = DescribeAnythingSource(path, images)
    assert list(source.bad) == [1] and source.key_of(1) == "describe_anything/annotations/1"
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and f"{path}, entry 1" in str(caught.value) and caught.value.reason == reason


def test_a_line_that_is_no_json_and_files_that_are_no_list(images: Path):
    path = write(images, TOLD, "told.jsonl")
    path.write_text(path.read_text() + "\n{'image'}\n")
    source = DescribeAnythingSource(path, images)
    assert len(source) == 4 and f"{path}, line 5: not valid JSON" in str(source.bad[3])
    for content, problem in (("{}", "expected a list"), ("[]", "that is not empty"), ("[", "not valid JSON")):
        path = images.parent / "other.json"
        path.write_text(content)
        with pytest.raises(DataError, match=problem):
            DescribeAnythingSource(path, images)
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        DescribeAnythingSource(images / "none.jsonl", images)
    with pytest.raises(DataError, match="3 of 3 images are missing|2 of 2 images are missing"):
        DescribeAnythingSource(write(images, TOLD), images.parent)


def test_a_line_that_is_no_json_is_named_by_sa2vas_too(images: Path):
    path = write(images, MEANT, "annotations.jsonl")
    path.write_text(path.read_text() + "{'image'}\n")
    assert f"{path}, line 3: not valid JSON" in str(Sa2VAFinetuneSource(path, images).bad[2])


MEANT = [
    {
        "image": "a.jpg",
        "mask": [[polygon(2, 3, 8, 9), polygon(5, 6, 12, 20)], [polygon(14, 1, 18, 4)]],
        "text": ["two", "one"],
    },
    {"image": "deep/b.jpg", "mask": [[polygon(30, 2, 40, 15)]], "text": ["low"]},
]


def test_sa2vas_finetuning_layout(images: Path):
    source = Sa2VAFinetuneSource(write(images, MEANT), images)
    assert [record.key for record in source] == ["sa2va_finetune/annotations/0", "sa2va_finetune/annotations/1"]
    assert (source.name, source.has_captions, source.has_phrases, source.has_turns) == (
        Sa2VAFinetuneSource.name,
        True,
        True,
        False,
    )
    first, second = source
    assert [region.captions for region in first.regions1] == [("two",), ("one",)]
    drawn = [box("a.jpg", 2, 3, 8, 9) | box("a.jpg", 5, 6, 12, 20), box("a.jpg", 14, 1, 18, 4)]
    for region, expected in zip(first.regions1, drawn, strict=True):
        np.testing.assert_array_equal(decode_mask(region.mask, 20, 30), expected)
    np.testing.assert_array_equal(decode_mask(second.regions1[0].mask, 41, 17), box("deep/b.jpg", 30, 2, 40, 15))
    assert second.image1 is not None and (second.image1.height, second.image1.width) == (41, 17)
    assert source.text_size_of(0) == (2, 6) and source.image_of(1) == images / "deep" / "b.jpg"
    assert pickle.loads(pickle.dumps(source))[:] == source[:]


def test_a_polygon_of_sa2va_is_drawn_as_by_another_library(images: Path):
    corners = np.array([[4, 3], [25, 6], [12, 17]])
    entry = {"image": "a.jpg", "mask": [[corners.ravel().tolist()]], "text": ["triangle"]}
    mask = decode_mask(Sa2VAFinetuneSource(write(images, [entry]), images)[0].regions1[0].mask, 20, 30)
    drawn = np.zeros((20, 30), np.uint8)
    cv2.fillPoly(drawn, [corners.astype(np.int32)], 1)
    edge = cv2.dilate(drawn, np.ones((3, 3), np.uint8)) - cv2.erode(drawn, np.ones((3, 3), np.uint8))
    np.testing.assert_array_equal(mask[edge == 0], drawn[edge == 0])


@pytest.mark.parametrize(
    ("wrong", "reason", "problem"),
    [
        ({**MEANT[0], "text": ["two"]}, "mask count", "2 masks and 1 texts"),
        ({**MEANT[0], "text": ["two", " "]}, "empty caption", "text 1 is empty"),
        ({**MEANT[1], "mask": [[]]}, "malformed polygon", "mask 0: must be a list of polygons"),
        ({**MEANT[1], "mask": [[[1, 2, 3, 4, 5]]]}, "malformed polygon", "mask 0: must be a list of polygons"),
        ({**MEANT[1], "mask": [polygon(1, 1, 3, 3)]}, "malformed polygon", "mask 0: must be a list of polygons"),
        ({**MEANT[1], "mask": [], "text": []}, "no regions", "the entry has no masks"),
        ({**MEANT[1], "image": "gone.jpg"}, "missing file", "the image gone.jpg is missing"),
        ({"image": "a.jpg", "mask": []}, "malformed record", "expected an object with 'text'"),
        ({**MEANT[1], "text": "low"}, "malformed record", "'text' must be a list of texts"),
    ],
)
def test_a_bad_entry_of_sa2va_is_a_record_of_its_own(images: Path, wrong: Any, reason: str, problem: str):
    path = write(images, [MEANT[1], wrong])
    source = Sa2VAFinetuneSource(path, images)
    assert list(source.bad) == [1] and source.text_size_of(1) is None
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and f"{path}, entry 1" in str(caught.value) and caught.value.reason == reason


def test_what_only_reading_finds_names_the_entry_too(images: Path):
    entry = {**MEANT[1], "mask": [[[1, 2, 3, 900, 5, 6]]]}
    (images / "c.png").write_bytes(b"no image")
    source = Sa2VAFinetuneSource(write(images, [entry, {**MEANT[1], "image": "c.png"}]), images)
    assert source.bad == {}
    record = source[0]
    with pytest.raises(MaskDecodeError, match=r"sa2va_finetune/annotations/0.*far outside of the image"):
        decode_mask(record.regions1[0].mask, 41, 17, key=record.key)
    with pytest.raises(ImageDecodeError, match=r"sa2va_finetune/annotations/1: .*c\.png: the image's header"):
        source[1]
