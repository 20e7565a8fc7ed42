"""SA1BSource on flat, nested and split folders, with and without filters."""

from __future__ import annotations

import pytest

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import SA1BSource
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
    with pytest.raises(DataError, match="in several sub-folders: sa_3"):
        SA1BSource(tmp_path)
    (tmp_path / "sa_1.jpg").unlink()
    (tmp_path / "sa_2.json").unlink()
    with pytest.raises(DataError, match="image or JSON missing beside .*sa_1, .*sa_2"):
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
