"""GCG of GranD-f and OpenPSG: phrases with places and masks."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.data.sample import make_sample
from maskcap.data.sources import GCGGroundingsSource
from maskcap.errors import DataError

CAPTION = "A man with a red hat holds a Dog, and the man with a stick looks on."


@pytest.fixture
def groundings(tmp_path, write_image, write_json):
    """groundings(entries) → source, with the image a.jpg."""
    write_image(tmp_path / "images" / "a.jpg")

    def make(*entries: object) -> GCGGroundingsSource:
        path = write_json(tmp_path / "GranDf_HA_GCG_train.json", list(entries))
        return GCGGroundingsSource(path, tmp_path / "images")

    return make


def _grounded(groundings: object, caption: str = CAPTION, **fields) -> dict:
    return {"file_name": "a.jpg", "image_id": "7", "caption": caption, "groundings": groundings, **fields}


def test_groundings_are_sorted_and_their_masks_united(groundings, box, coco_rle, spans_of, masks_of):
    first, second = box(3, 4, 9, 12), box(6, 8, 15, 20)  # overlapping: a plain sum would have twos
    dog, man = CAPTION.index("a Dog"), CAPTION.index("the man")
    entry = {
        "the man with a stick": {"token_positives": [man, man + 20], "rle_masks": [coco_rle(box(0, 0, 20, 1))]},
        "a dog": {"token_positives": [dog, dog + 5], "rle_masks": [coco_rle(first), coco_rle(second)]},
        "looks": None,
    }
    source = groundings(_grounded(entry, height=20, width=30), _grounded(entry))
    assert source.name == "gcg_groundings" and source.skipped == {"phrases published without a mask": 2}
    for record, key in zip(source, ("7", "7#2"), strict=True):
        assert record.key == f"gcg_groundings/GranDf_HA_GCG_train/{key}"
        assert spans_of(record) == ["a Dog", "the man with a stick"]
        np.testing.assert_array_equal(masks_of(record)[0], first | second)
        np.testing.assert_array_equal(masks_of(record)[1], box(0, 0, 20, 1))
        sample = make_sample(record, np.random.default_rng(0), image_size=30)
        assert sample["mask1"].shape == (2, 30, 30) and sample["mask1"].max() == 1 and sample["turns"] == record.turns


def test_groundings_of_a_caption_in_quotation_marks_may_count_them(groundings, box, coco_rle, spans_of):
    for lead in (0, 1):
        span = {"token_positives": [6 + lead, 9 + lead], "rle_masks": [coco_rle(box(1, 1, 5, 5))]}
        record = groundings(_grounded({"dog": span}, caption='"A big dog."'))[0]
        assert record.turns[0].answer == "A big dog." and spans_of(record) == ["dog"]


def test_groundings_that_do_not_fit_are_named(groundings, box, coco_rle):
    rle, at = coco_rle(box(1, 1, 5, 5)), CAPTION.index("a Dog")
    good = {"a dog": {"token_positives": [at, at + 5], "rle_masks": [rle]}}
    bad = [
        ({"a dog": {"token_positives": [at, at + 500], "rle_masks": [rle]}}, "is not at characters 27 to 527"),
        ({"a dog": {"token_positives": [-5, at], "rle_masks": [rle]}}, "is not at characters -5"),
        ({"a dog": {"token_positives": [0, 5], "rle_masks": [rle]}}, "there stands 'A man'"),
        ({"a dog": {"token_positives": [at], "rle_masks": [rle]}}, "must be [start, end]"),
        ({"a dog": {"token_positives": [at, at + 5], "rle_masks": []}}, "the phrase 'a Dog' has no mask"),
        ({"a dog": {"token_positives": [at, at + 5]}}, "'rle_masks' of 'a dog' must be a list of objects"),
        ({"a dog": {"rle_masks": [rle]}}, "'token_positives'"),
        ([], "'groundings' must be an object"),
    ]
    source = groundings(_grounded(good), *(_grounded(entry) for entry, _ in bad), {"file_name": "a.jpg"}, None)
    assert len(source.bad) == len(bad) + 2 and "'caption' must be texts" in str(source.bad[len(bad) + 1])
    last = f"entry {len(bad) + 2}): expected an object with 'file_name'"
    assert last in str(source.bad[len(bad) + 2]) and source[0].turns[0].answer == CAPTION
    for number, (_, problem) in enumerate(bad, 1):
        message = str(source.bad[number])
        assert problem in message and f"GranDf_HA_GCG_train.json, entry {number})" in message
    torn = groundings(_grounded({"a dog": {**good["a dog"], "rle_masks": [rle, {**rle, "counts": rle["counts"][:2]}]}}))
    with pytest.raises(DataError, match=r"gcg_groundings/.*/7, phrase 1: bad segmentation"):
        make_sample(torn[0], np.random.default_rng(0), image_size=8)
