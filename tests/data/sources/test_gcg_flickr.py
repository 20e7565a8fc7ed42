"""GCG of Flickr30k: COCO-like, annotations point into captions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskcap.data.sources import GCGFlickrSource
from maskcap.errors import DataError


def _flickr(coco_rle, images: list[dict], annotations: list[tuple]) -> dict:
    """annotations: (image id, tokens_positive, mask, …changes)."""
    listed = [
        {
            "id": i,
            "image_id": image,
            "tokens_positive": places,
            "sam_mask": coco_rle(mask),
            "bbox": [1, 1, 5, 5],
            "area": 25,
            "ignore": 0,
            **(changes[0] if changes else {}),
        }
        for i, (image, places, mask, *changes) in enumerate(annotations)
    ]
    return {"images": images, "annotations": listed, "categories": [{"id": 1, "name": "object"}]}


@pytest.fixture
def flickr(tmp_path, write_image, write_json, coco_rle):
    """flickr(captions by image id, annotations) → source; every image is a.jpg."""
    write_image(tmp_path / "flickr30k-images" / "a.jpg")

    def make(captions: dict[int, str], *annotations: tuple, **fields) -> GCGFlickrSource:
        images = [
            {"id": i, "file_name": "a.jpg", "height": 20, "width": 30, "caption": text, **fields}
            for i, text in captions.items()
        ]
        path = write_json(tmp_path / "flickr_mergedGT_GCG_train.json", _flickr(coco_rle, images, list(annotations)))
        return GCGFlickrSource(path, tmp_path / "flickr30k-images")

    return make


def test_flickr_annotations_of_one_place_are_one_phrase(flickr, box, spans_of, masks_of):
    captions = {5: "Two dogs chase a ball.", 6: "A dog.", 7: "A ball and a dog play."}
    source = flickr(
        captions,
        (5, [[15, 21]], box(1, 1, 4, 4)),
        (5, [[0, 8]], box(3, 4, 9, 12)),
        (5, [[0, 8]], box(6, 8, 15, 20)),
        (5, [[9, 14]], box(0, 0, 2, 2), {"ignore": 1}),
        (5, [[9, 14]], box(0, 0, 2, 2), {"bbox": [1, 1, 0.5, 9]}),
        (5, [[9, 14]], box(0, 0, 2, 2), {"bbox": [30, 1, 5, 5]}),
        (5, [[9, 14]], box(0, 0, 2, 2), {"area": 0}),
        (6, [[0, 5]], box(0, 0, 2, 2)),
        (7, [[0, 6], [11, 16]], box(2, 2, 9, 9)),
        (8, [[0, 6]], box(2, 2, 9, 9)),
    )
    assert source.name == "gcg_flickr" and [record.key.rpartition("/")[2] for record in source] == ["5", "7"]
    assert spans_of(source[0]) == ["Two dogs", "a ball"] and spans_of(source[1]) == ["A ball"]
    np.testing.assert_array_equal(masks_of(source[0])[0], box(3, 4, 9, 12) | box(6, 8, 15, 20))
    np.testing.assert_array_equal(masks_of(source[0])[1], box(1, 1, 4, 4))
    assert source[0].turns[0].answer == captions[5] and (source[0].image1.height, source[0].image1.width) == (20, 30)
    assert source.skipped == {
        "captions of fewer than 3 words": 1,
        "annotations to be ignored": 1,
        "boxes under one pixel": 1,
        "boxes outside of the image": 1,
        "annotations without area": 1,
        "further places of a phrase": 1,
        "annotations of images that are not listed": 1,
    }


def test_flickr_annotations_that_do_not_fit_are_named(flickr, box, spans_of):
    mask, good = box(1, 1, 5, 5), [[0, 8]]
    bad = [
        ((good, mask, {"sam_mask": None}), "the phrase 'Two dogs' has no mask"),
        (([[0, 99]], mask), "at characters 0 to 99 of the caption, which has 22"),
        (([[3, 3]], mask), "at characters 3 to 3"),
        (([], mask), "'tokens_positive' must be a list of [start, end]"),
        ((good, mask, {"bbox": [1, 2]}), "'bbox' must be [x, y, width, height]"),
        ((good, mask, {"sam_mask": [1]}), "'sam_mask' must be an RLE"),
    ]
    captions = {i: "Two dogs chase a ball." for i in range(len(bad) + 2)}
    source = flickr(captions, *((i, *entry) for i, (entry, _) in enumerate(bad)), (len(bad), good, mask))
    assert sorted(source.bad) == list(range(len(bad))) and spans_of(source[len(bad)]) == ["Two dogs"]
    for number, (_, problem) in enumerate(bad):
        message = str(source.bad[number])
        assert problem in message and f"flickr_mergedGT_GCG_train.json, image {number})" in message
    assert source.skipped == {"images without a phrase that has a mask": 1}
    with pytest.raises(DataError, match=r"image 1\).*'height' must be a whole number"):
        flickr({1: "Two dogs chase a ball."}, (1, good, mask), height="tall")


def test_flickr_entries_without_an_id_are_bad_records_of_their_own(tmp_path, flickr, box, write_json, spans_of):
    captions = {1: "Two dogs chase a ball.", 2: "One more dog runs."}
    flickr(captions, (1, [[0, 8]], box(1, 1, 5, 5)), (None, [[0, 3]], box(1, 1, 5, 5)), (2, [[0, 12]], box(0, 0, 2, 2)))
    path = tmp_path / "flickr_mergedGT_GCG_train.json"
    content = json.loads(path.read_text())
    content["annotations"] += [None, {**content["annotations"][0], "image_id": 1.5, "id": "x"}]
    content["images"] += [{**content["images"][0], "id": None}, 7, {**content["images"][1], "caption": "Another one."}]
    source = GCGFlickrSource(write_json(path, content), tmp_path / "flickr30k-images")
    assert [spans_of(source[i]) for i in (0, 1)] == [["Two dogs"], ["One more dog"]]
    names = ["1", "2", "image 2", "image 3", "image 4", "annotation 1", "annotation 3", "annotation x"]
    assert [source.key_of(i).rpartition("/")[2] for i in range(len(source))] == names
    assert list(source.bad) == [2, 3, 4, 5, 6, 7] and source.skipped == {}
    for index, problem in {
        2: "image 2: 'id' must be a whole number",
        3: "image 3: expected an object with 'id'",
        4: "image 4: an earlier image has its id, 2",
        5: "annotation 1: 'image_id' must be a whole number",
        6: "annotation 3: expected an object with 'image_id'",
        7: "annotation x: 'image_id' must be a whole number",
    }.items():
        with pytest.raises(DataError, match=problem) as caught:
            source[index]
        assert str(path) in str(caught.value)
    assert source.bad[4].reason == "duplicate key"
    with pytest.raises(DataError, match="'annotations' must be a list of objects"):
        GCGFlickrSource(write_json(path, {**content, "annotations": {}}), tmp_path / "flickr30k-images")
