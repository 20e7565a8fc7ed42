"""RefCOCOSource on a tiny data set in the published layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import RefCOCOSource
from maskcap.errors import DataError

SQUARE = [5.0, 5.0, 9.0, 5.0, 9.0, 9.0, 5.0, 9.0]
BAR = [7.0, 5.0, 15.0, 5.0, 15.0, 7.0, 7.0, 7.0]


def _ref(number: int, image: int, split: str, *sentences: str) -> dict:
    said = [
        {"sent_id": i, "sent": sent, "raw": sent.upper(), "tokens": sent.split()} for i, sent in enumerate(sentences)
    ]
    name = f"COCO_train2014_{image:012d}_{number}.jpg"
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": image,
        "split": split,
        "sentences": said,
        "file_name": name,
    }


REFS = [
    _ref(0, 7, "train", "left box", "red box"),
    _ref(1, 8, "train", "bar"),
    _ref(2, 7, "train", "right box"),
    _ref(3, 9, "val", "only box"),
]


@pytest.fixture
def root(tmp_path, write_image, write_json, rle) -> Path:
    images = [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 20, "width": 30} for i in (7, 8, 9)]
    masks = {100: [SQUARE], 101: [SQUARE, BAR], 102: rle(2, 3), 103: {"size": [20, 30], "counts": [0, 10, 590]}}
    annotations = [{"id": i, "image_id": REFS[i - 100]["image_id"], "segmentation": mask} for i, mask in masks.items()]
    write_json(tmp_path / "refcoco" / "instances.json", {"images": images, "annotations": annotations})
    _write_refs(tmp_path, REFS)
    for image in images:
        write_image(tmp_path / "coco" / "train2014" / image["file_name"])
    return tmp_path


def _write_refs(root: Path, refs: object) -> None:
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))


def test_one_record_an_image_with_all_its_refs(root):
    source = RefCOCOSource(root)
    assert (source.name, source.has_captions, source.skipped, len(source)) == ("refcoco", True, {}, 2)
    assert source.has_phrases and source.image_of(1) == source[1].image1.path
    assert [record.key for record in source] == ["refcoco/train/7", "refcoco/train/8"]
    left, right = source[0].regions1
    assert left.captions == ("left box", "red box") and right.captions == ("right box",)
    assert (left.id, right.id) == ("0", "2") and left.referring and left.questions == ()
    # The image's name is that of instances.json, not the ref's own, which carries a suffix.
    assert source[0].image1.path == root / "coco" / "train2014" / "COCO_train2014_000000000007.jpg"
    assert read_image(source[0].image1).shape == (20, 30, 3)


def test_masks_of_several_parts_and_both_kinds_of_rle_decode(root):
    train, val = RefCOCOSource(root), RefCOCOSource(root, split="val")
    expected = np.zeros((20, 30))
    expected[5:9, 5:9] = expected[5:7, 7:15] = 1
    np.testing.assert_array_equal(decode_mask(train[1].regions1[0].mask, 20, 30), expected)
    assert decode_mask(train[0].regions1[1].mask, 20, 30).sum() == 25
    assert decode_mask(val[0].regions1[0].mask, 20, 30).sum() == 10


def test_root_may_be_the_data_sets_own_folder(root):
    assert len(RefCOCOSource(root / "refcoco")) == 2
    assert len(RefCOCOSource(root, images=root / "coco")) == 2
    assert len(RefCOCOSource(root, images=[root / "refcoco", root / "coco" / "train2014"])) == 2


def test_a_pickle_of_python_2_reads_the_same(root):
    expected = RefCOCOSource(root)[:]
    # Protocol 2 with byte strings for text, as Python 2 wrote it.
    data = pickle.dumps(REFS, 2)
    for text in ("sentences", "sent", "split", "train", "image_id", "left box"):
        utf8 = text.encode()
        old = b"X" + len(utf8).to_bytes(4, "little") + utf8
        assert old in data
        data = data.replace(old, b"U" + bytes([len(utf8)]) + utf8)
    (root / "refcoco" / "refs(unc).p").write_bytes(data)
    assert RefCOCOSource(root)[:] == expected


def test_missing_files_say_where_was_looked(root, tmp_path):
    with pytest.raises(DataError, match=r"refs\(google\)\.p of refcoco\+ not found.*refcoco\+.*data/README\.md"):
        RefCOCOSource(root, "refcoco+", "google")
    with pytest.raises(DataError, match="no refs of split 'testA'; set split to one of train, val"):
        RefCOCOSource(root, split="testA")
    (root / "coco" / "train2014" / "COCO_train2014_000000000008.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing: COCO_train2014_000000000008\.jpg\. Looked in"):
        RefCOCOSource(root)
    (root / "refcoco" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file"):
        RefCOCOSource(root)
    (root / "coco").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="the COCO images of refcoco not found"):
        RefCOCOSource(root)


@pytest.mark.parametrize(
    ("refs", "problem"),
    [
        ([*REFS, _ref(4, 7, "train", "box", " ")], "the annotations of refs 4"),
        ([REFS[0], _ref(1, 8, "train", "bar", "")], "refcoco/train/8, ref 1: a sentence is empty"),
        ([_ref(1, 8, "train")], "refcoco/train/8, ref 1: the ref has no sentences"),
        ([_ref(1, 77, "train", "bar")], "images of refs are missing: ids 77"),
        ([_ref(1, 7, "train", "bar")], "refs whose annotation is of another image: 1"),
        ([{**REFS[0], "image_id": "seven"}], "'image_id' must be a whole number"),
        ({"refs": REFS}, "the pickle must be a list of objects"),
        ([], "(none there)"),
    ],
)
def test_malformed_refs_are_errors(root, refs, problem):
    _write_refs(root, refs)
    with pytest.raises(DataError) as caught:
        RefCOCOSource(root)
    assert problem in str(caught.value) and str(root) in str(caught.value)
