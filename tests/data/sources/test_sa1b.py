"""SA1BSource on flat, nested and split folders, with and without filters."""

from __future__ import annotations

from collections import Counter

import pytest

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import SA1BSource
from maskcap.data.sources.sa1b_annotation import SA1BFilters, make_regions, read_annotation
from maskcap.errors import DataError


@pytest.fixture
def write(tmp_path, write_image, write_json, rle):
    """write(place, sizes): one image with squares of these sizes as masks."""

    def pair(place: str, sizes: tuple[int, ...] = (5, 3)) -> None:
        annotations = [
            {
                "id": 10 + i,
                "segmentation": rle(1, 1, n),
                "area": n * n,
                "predicted_iou": 0.9,
                "stability_score": 0.1 * n,
            }
            for i, n in enumerate(sizes)
        ]
        image = {"image_id": 1, "width": 30, "height": 20, "file_name": "x.jpg"}
        write_image(tmp_path / f"{place}.jpg")
        write_json(tmp_path / f"{place}.json", {"image": image, "annotations": annotations})

    return pair


@pytest.mark.parametrize("place", ["sa1b/sa_{}", "sa1b/sa_00000{}/sa_{}", "sa_{}"])
def test_flat_and_nested_folders(tmp_path, write, place):
    for number in (10, 9, 2):
        write(place.format(number, number))
    source = SA1BSource(tmp_path)
    assert (source.name, source.has_captions, source.skipped) == ("sa1b", False, {})
    assert not source.has_phrases and len({source.image_of(i) for i in range(len(source))}) == len(source)
    assert [record.key for record in source] == ["sa1b/train/2", "sa1b/train/9", "sa1b/train/10"]
    record = source[0]
    assert [region.id for region in record.regions1] == ["10", "11"] and record.regions1[0].captions == ()
    assert decode_mask(record.regions1[1].mask, 20, 30).sum() == 9
    assert read_image(record.image1).shape == (20, 30, 3)


def test_filters_count_what_they_drop(tmp_path, write):
    write("sa_1", (2, 6, 9))
    write("sa_2", (2, 3))
    write("sa_3", (8,))
    source = SA1BSource(tmp_path, min_area=16, min_predicted_iou=0.5, min_stability=0.7)
    assert [(record.key, [region.id for region in record.regions1]) for record in source] == [
        ("sa1b/train/1", ["12"]),
        ("sa1b/train/3", ["10"]),
    ]
    assert source.skipped == {
        "regions below the least area": 3,
        "regions below the least stability_score": 1,
        "images left without a region": 1,
    }
    with pytest.raises(DataError, match="the filters leave no region"):
        SA1BSource(tmp_path, min_area=1000)


def test_splits_are_sub_folders_or_all_is_train(tmp_path, write):
    write("sa_1")
    with pytest.raises(DataError, match="no split 'val'; splits there: train"):
        SA1BSource(tmp_path, split="val")
    write("sa1b/train/sa_1")
    write("sa1b/val/deep/sa_2")
    assert [record.key for record in SA1BSource(tmp_path)] == ["sa1b/train/1"]
    assert [record.key for record in SA1BSource(tmp_path / "sa1b", split="val")] == ["sa1b/val/2"]
    with pytest.raises(DataError, match="no split 'test'; splits there: train, val"):
        SA1BSource(tmp_path, split="test")


def test_missing_files_are_named(tmp_path, write):
    with pytest.raises(DataError, match=r"no sa_N\.jpg and sa_N\.json.*data/README\.md"):
        SA1BSource(tmp_path)
    with pytest.raises(DataError, match="not found. Looked for"):
        SA1BSource(tmp_path / "nowhere")
    for place in ("sa_1", "sa_2", "a/sa_3", "b/sa_3"):
        write(place)
    (tmp_path / "sa_1.jpg").unlink()
    (tmp_path / "sa_2.json").unlink()
    source = SA1BSource(tmp_path)
    assert [source.key_of(i) for i in range(4)] == [f"sa1b/train/{n}" for n in (1, 2, 3, 3)]
    assert {i: error.reason for i, error in source.bad.items()} == {
        0: "missing file",
        1: "missing file",
        3: "duplicate key",
    }
    for index, message in ((0, r"sa_1\.jpg: image or JSON missing beside .*sa_1\.json"), (1, r"sa_2\.json: image or")):
        with pytest.raises(DataError, match=message):
            source[index]
    with pytest.raises(
        DataError, match=r"b/sa_3\.json: sa_3 is in several sub-folders; .*a/sa_3\.json is the one in use"
    ):
        source[3]
    assert source[2].image1.path == tmp_path / "a" / "sa_3.jpg" and len(set(map(source.image_of, range(4)))) == 4
    assert source.text_size_of(2) is None and source.annotation_of(0) == str(tmp_path / "sa_1.json")
    for place in ("a", "b"):
        (tmp_path / place / "sa_3.jpg").unlink()
    with pytest.raises(DataError, match="all 4 records are bad. The first: .*sa_1"):
        SA1BSource(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "expected an object with 'image'"),
        ({"image": {}}, "expected an object with 'annotations'"),
        ({"image": {}, "annotations": []}, "the image has no annotations"),
        ({"image": {}, "annotations": [{"id": 3}]}, "annotation 3: expected an object with 'segmentation'"),
        ({"image": {"width": 3}, "annotations": [{"segmentation": {}}]}, "expected an object with 'height'"),
    ],
)
def test_a_malformed_json_is_an_error_when_its_record_is_read(tmp_path, write, write_json, content, problem):
    write("sa_1")
    write_json(tmp_path / "sa_1.json", content)
    with pytest.raises(DataError) as caught:
        SA1BSource(tmp_path)[0]
    assert str(tmp_path / "sa_1.json") in str(caught.value) and problem in str(caught.value)


def test_torn_json_and_missing_filter_field(tmp_path, write, write_json, rle):
    write("sa_1")
    (tmp_path / "sa_1.json").write_text('{"image": ')
    with pytest.raises(DataError, match=r"sa_1\.json: not valid JSON"):
        SA1BSource(tmp_path)[0]
    image = {"width": 30, "height": 20}
    write_json(tmp_path / "sa_1.json", {"image": image, "annotations": [{"id": 4, "segmentation": rle(1, 1)}]})
    with pytest.raises(DataError, match="annotation 4: no number 'area' to filter by"):
        SA1BSource(tmp_path, min_area=1)


def test_filtering_finds_malformed_jsons_when_it_reads_them(tmp_path, write):
    for number in (1, 2, 3):
        write(f"sa_{number}", (2, 5))
    (tmp_path / "sa_2.json").write_text('{"image": ')
    (tmp_path / "sa_3.jpg").unlink()
    source = SA1BSource(tmp_path, min_area=9)
    assert [error.reason for error in source.bad.values()] == ["unreadable annotation", "missing file"]
    assert (len(source), list(source.bad), source.skipped) == (3, [1, 2], {"regions below the least area": 1})
    with pytest.raises(DataError, match=r"sa_2\.json: not valid JSON"):
        source[1]
    assert len(source[0].regions1) == 1


def test_one_annotation_makes_regions_by_itself(rle):
    """As the published tars are read."""
    content = {
        "image": {"height": 20.0, "width": 30, "file_name": "sa_7.jpg"},
        "annotations": [{"segmentation": rle(1, 1, n), "area": n * n} for n in (2, 4)],
    }
    annotation = read_annotation(content, "x.tar/sa_7.json")
    assert (annotation.height, annotation.width, annotation.name) == (20, 30, "sa_7.jpg")
    assert [region.id for region in make_regions(annotation.annotations, SA1BFilters(), "x")] == ["0", "1"]
    skipped: Counter[str] = Counter()
    (region,) = make_regions(annotation.annotations, SA1BFilters(area=9), "x", skipped)
    assert decode_mask(region.mask, 20, 30).sum() == 16 and skipped == {"regions below the least area": 1}
    with pytest.raises(DataError, match=r"x\.tar/sa_7\.json: the image has no annotations") as caught:
        read_annotation({**content, "annotations": []}, "x.tar/sa_7.json")
    assert caught.value.reason == "no regions"
