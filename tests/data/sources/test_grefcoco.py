"""GRefCOCOSource on a tiny set written here in the published layout: several targets, one, none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.rle import decode_mask
from maskcap.data.sources import GRefCOCOSource
from maskcap.data.sources.lenient import problems_of
from maskcap.errors import DataError

HEIGHT, WIDTH = 24, 36


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[top:bottom, left:right] = 1
    return drawn


# Two boxes that overlap, one apart, and one whose annotation is an RLE.
MASKS = {11: box(2, 3, 10, 12), 12: box(6, 8, 15, 20), 13: box(16, 25, 22, 33), 21: box(0, 0, 9, 9)}


def corners(drawn: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    top, bottom, left, right = float(rows[0]), float(rows[-1] + 1), float(columns[0]), float(columns[-1] + 1)
    return [left, top, right, top, right, bottom, left, bottom]


def compressed(drawn: np.ndarray) -> dict[str, Any]:
    rle: Any = coco.encode(np.asfortranarray(drawn))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def ref(number: int, image: int, targets: list[int], *sentences: str, split: str = "train") -> dict[str, Any]:
    return {
        "ref_id": number,
        "image_id": image,
        "split": split,
        "ann_id": targets or [-1],
        "category_id": [1] * len(targets) or [-1],
        "no_target": not targets,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "sentences": [
            {"sent_id": 10 * number + i, "sent": each, "tokens": each.split()} for i, each in enumerate(sentences)
        ],
    }


REFS = [
    ref(0, 7, [11, 12], "both boxes on the left", "the two that overlap"),
    ref(1, 8, [21], "corner"),
    ref(2, 7, [], "the dog"),
    ref(3, 7, [11, 13, 14], "all but one"),
    ref(4, 9, [31], "only box", split="testA"),
    ref(5, 7, [14, 15], "the coded ones"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "grefcoco"
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in (7, 8, 9)
    ]
    annotations = [
        {"id": number, "image_id": 8 if number == 21 else 7, "segmentation": [corners(drawn)]}
        for number, drawn in MASKS.items()
    ]
    annotations += [
        {"id": 14, "image_id": 7, "segmentation": compressed(box(18, 2, 23, 8)), "iscrowd": 1},
        {"id": 15, "image_id": 7, "segmentation": compressed(box(20, 4, 24, 30)), "iscrowd": 1},
        {"id": 31, "image_id": 9, "segmentation": [corners(box(1, 1, 5, 5))]},
    ]
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    for image in images:
        Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)).save(tmp_path / "coco" / "train2014" / image["file_name"])
    write(tmp_path, REFS)
    return tmp_path


def write(root: Path, refs: Any) -> None:
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs))


def test_phrases_for_several_objects_one_and_none(root: Path):
    source = GRefCOCOSource(root)
    assert [record.key for record in source] == ["grefcoco/train/7", "grefcoco/train/8"]
    assert (source.name, source.has_captions, source.has_phrases, source.has_turns) == ("grefcoco", True, True, False)
    assert source.skipped == {} and source.bad == {}
    both, nobody, three, coded = source[0].regions1
    assert [region.id for region in source[0].regions1] == ["0", "2", "3", "5"]
    assert both.captions == ("both boxes on the left", "the two that overlap") and nobody.captions == ("the dog",)
    assert [region.may_be_empty for region in (both, nobody, three, coded)] == [False, True, False, False]
    expected = [
        MASKS[11] | MASKS[12],  # pixels in both are 1, not 2
        np.zeros((HEIGHT, WIDTH), np.uint8),
        MASKS[11] | MASKS[13] | box(18, 2, 23, 8),  # polygons beside an RLE
        box(18, 2, 23, 8) | box(20, 4, 24, 30),
    ]
    for region, drawn in zip(source[0].regions1, expected, strict=True):
        np.testing.assert_array_equal(decode_mask(region.mask, HEIGHT, WIDTH), drawn)
    np.testing.assert_array_equal(decode_mask(source[1].regions1[0].mask, HEIGHT, WIDTH), MASKS[21])
    image = source[0].image1
    assert image is not None and image.path == root / "coco" / "train2014" / "COCO_train2014_000000000007.jpg"
    assert source.text_size_of(1) == (1, len("corner")) and source.image_of(0) == image.path


def test_other_splits_and_places(root: Path):
    assert [record.key for record in GRefCOCOSource(root, "testA")] == ["grefcoco/testA/9"]
    assert len(GRefCOCOSource(root / "grefcoco")) == 2
    assert len(GRefCOCOSource(root, images=root / "coco")) == 2
    with pytest.raises(DataError, match="no refs of split 'val'; set split to one of testA, train"):
        GRefCOCOSource(root, "val")
    with pytest.raises(DataError, match=r"grefs\(unc\)\.json of grefcoco not found\. Looked for: .*data/README\.md"):
        GRefCOCOSource(root / "coco")


NO_TARGET = {**REFS[1], "no_target": True}
NO_ANNOTATION = {**REFS[1], "ann_id": []}


@pytest.mark.parametrize(
    ("wrong", "reason", "problem"),
    [
        (ref(9, 8, [21, 77], "both"), "malformed record", "ref 9: its annotation 77 is missing from"),
        (ref(9, 8, [21, 11], "both"), "malformed record", "ref 9: its annotation 11 is of another image, 7"),
        (ref(9, 8, [21], "corner", " "), "empty caption", "ref 9: a sentence is empty"),
        (ref(9, 8, []), "empty caption", "ref 9: the ref has no sentences"),
        (NO_TARGET, "malformed record", "ref 1: 'no_target' is true, but it has annotations [21]"),
        (NO_ANNOTATION, "malformed record", "ref 1: it has no annotations, and 'no_target' is not true"),
        ({**REFS[1], "ann_id": [21, -1]}, "malformed record", "ref 1: 'ann_id' is [21, -1]: -1 and null mean none"),
        ({**REFS[1], "ann_id": [21, None]}, "malformed record", "ref 1: 'ann_id' is [21, None]: -1 and null mean none"),
        ({**REFS[1], "no_target": "no"}, "malformed record", "ref 1: 'no_target' must be true or false"),
        (ref(9, 99, [21], "corner"), "malformed record", "grefcoco/train/99: the image of its refs is missing"),
    ],
)
def test_a_bad_ref_is_an_error_of_its_record_alone(root: Path, wrong: dict[str, Any], reason: str, problem: str):
    write(root, [REFS[0], wrong])
    source = GRefCOCOSource(root)
    assert list(source.bad) == [1] and source[0].key == "grefcoco/train/7"
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and str(root / "grefcoco") in str(caught.value)
    assert caught.value.reason == reason


def test_a_missing_image_and_a_bad_mask_among_several_are_named(root: Path):
    (root / "coco" / "train2014" / "COCO_train2014_000000000008.jpg").unlink()
    content = json.loads((root / "grefcoco" / "instances.json").read_text())
    next(each for each in content["annotations"] if each["id"] == 14)["segmentation"]["counts"] = "P"
    (root / "grefcoco" / "instances.json").write_text(json.dumps(content))
    write(root, [*REFS, ref(6, 9, [31], "only box")])
    source = GRefCOCOSource(root)
    assert {source.key_of(i): error.reason for i, error in source.bad.items()} == {
        "grefcoco/train/7": "malformed RLE",
        "grefcoco/train/8": "missing file",
    }
    assert "grefcoco/train/7, ref 3: bad segmentation: the RLE's count string is cut off" in str(source.bad[0])
    assert "grefcoco/train/8" in str(source.bad[1]) and "000000000008.jpg is missing" in str(source.bad[1])
    assert len(problems_of(source.bad[0])) == 1
