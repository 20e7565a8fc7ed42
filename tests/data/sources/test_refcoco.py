"""RefCOCOSource on a tiny data set in the published layout."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import RefCOCOSource
from maskcap.data.sources.lenient import problems_of
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
    for number in (7, 8):
        (root / "coco" / "train2014" / f"COCO_train2014_{number:012d}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"2 of 2 images are missing: COCO_train2014_000000000007\.jpg, .*8\.jpg\. Looked"
    ):
        RefCOCOSource(root)
    (root / "refcoco" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file"):
        RefCOCOSource(root)
    (root / "coco").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="the COCO images of refcoco not found"):
        RefCOCOSource(root)


BAD = [
    ([*REFS, _ref(4, 7, "train", "box", " ")], 0, "malformed record", "ref 4: its annotation 104 is missing from"),
    ([REFS[0], _ref(1, 8, "train", "bar", "")], 1, "empty caption", "refcoco/train/8, ref 1: a sentence is empty"),
    ([REFS[0], _ref(1, 8, "train")], 1, "empty caption", "refcoco/train/8, ref 1: the ref has no sentences"),
    (
        [REFS[0], _ref(1, 77, "train", "bar")],
        1,
        "malformed record",
        "refcoco/train/77: the image of its refs is missing",
    ),
    ([REFS[1], _ref(2, 9, "train", "bar")], 1, "malformed record", "ref 2: its annotation 102 is of another image, 7"),
    ([{**REFS[0], "image_id": "seven"}, REFS[1]], 1, "malformed record", "'image_id' must be a whole number"),
    ([REFS[1], {**REFS[0], "ann_id": [3]}], 1, "malformed record", "ref 0: its annotation [3] is missing"),
]


@pytest.mark.parametrize(("refs", "index", "reason", "problem"), BAD)
def test_bad_refs_are_errors_of_their_record_alone(root, caplog, refs, index, reason, problem):
    _write_refs(root, refs)
    with caplog.at_level(logging.WARNING):
        source = RefCOCOSource(root)
    assert len(source) == 2 and list(source.bad) == [index] and "1 of 2 records are bad" in caplog.text
    assert problem in caplog.text
    assert source[1 - index].key == source.key_of(1 - index)
    with pytest.raises(DataError) as caught:
        source[index]
    assert problem in str(caught.value) and str(root) in str(caught.value)
    assert caught.value.reason == reason and str(source.bad[index]) == str(caught.value)
    assert source.text_size_of(index) is None and source.key_of(index).startswith("refcoco/train/")
    assert source.image_of(index) != source.image_of(1 - index)


def test_a_set_without_a_good_record_is_an_error_when_built(root):
    _write_refs(root, [_ref(0, 7, "train", "box", " ")])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: its only record is bad: refcoco/train/7, ref 0: a") as caught:
        RefCOCOSource(root)
    assert caught.value.reason == "empty caption"


def test_a_missing_image_or_size_is_an_error_of_its_record_alone(root, write_json):
    missing = root / "coco" / "train2014" / "COCO_train2014_000000000008.jpg"
    missing.unlink()
    source = RefCOCOSource(root)
    with pytest.raises(
        DataError, match=r"refcoco/train/8 .*COCO_train2014_000000000008\.jpg is missing\. Looked"
    ) as caught:
        source[1]
    assert caught.value.reason == "missing file" and list(source.bad) == [1]
    assert source.image_of(1) == source.key_of(1) == "refcoco/train/8"
    assert str(root / "refcoco" / "refs(unc).p") == source.annotation_of(1)
    instances = json.loads((root / "refcoco" / "instances.json").read_text())
    instances["images"][0]["height"] = None
    instances["images"].append({"id": [], "file_name": "nobody's.jpg"})
    instances["annotations"].append({"segmentation": []})
    write_json(root / "refcoco" / "instances.json", instances)
    with pytest.raises(
        DataError, match=r"all 2 records are bad. The first: .*image 7: 'height' must be a whole number"
    ):
        RefCOCOSource(root)


def test_one_record_names_all_its_problems(root):
    _write_refs(root, [REFS[1], _ref(0, 7, "train", ""), _ref(5, 7, "train", "box"), REFS[2]])
    error = RefCOCOSource(root).bad[1]
    assert error.reason == "empty caption"
    assert "ref 0: a sentence is empty" in str(error) and "ref 5: its annotation 105 is missing" in str(error)
    assert [part.reason for part in problems_of(error)] == ["empty caption", "malformed record"]
    copied = pickle.loads(pickle.dumps(error))
    assert [str(part) for part in problems_of(copied)] == [str(part) for part in problems_of(error)]
    assert problems_of(DataError("alone"))[0].reason == "malformed record"


def test_errors_that_are_raised_again_do_not_pile_up(root):
    _write_refs(root, [REFS[0], _ref(1, 8, "train")])
    source = RefCOCOSource(root)
    for _ in range(3):
        with pytest.raises(DataError):
            source[-1]
    assert source.bad[1].__traceback__ is None
    assert [record.key for record in source[:1]] == ["refcoco/train/7"]
    with pytest.raises(IndexError):
        source[2]
    copied = pickle.loads(pickle.dumps(source))  # as worker processes get it
    assert (str(copied.bad[1]), copied.bad[1].reason) == (str(source.bad[1]), "empty caption")


def test_text_sizes_are_known_without_reading(root):
    source = RefCOCOSource(root)
    assert [source.text_size_of(i) for i in range(2)] == [(2, len("left box" + "red box" + "right box")), (1, 3)]


@pytest.mark.parametrize(
    ("refs", "problem"), [({"refs": REFS}, "the pickle must be a list of objects"), ([], "(none there)")]
)
def test_another_pickle_is_an_error(root, refs, problem):
    _write_refs(root, refs)
    with pytest.raises(DataError) as caught:
        RefCOCOSource(root)
    assert problem in str(caught.value) and str(root) in str(caught.value)
