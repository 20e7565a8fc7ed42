"""SAVSource: frames and pairs, absent objects, manual and auto annotations."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import SAVSource
from maskcap.errors import ConfigError, DataError, MaskDecodeError

FRAMES = 25  # of video: annotated frames 0 to 6


@pytest.fixture
def write(tmp_path, write_json, rle):
    """write(place, {kind: columns}): a column is a string with x where the object is shown in an annotated frame."""

    def video(place: str, columns: dict[str, list[str]], **fields) -> Path:
        path = tmp_path / f"{place}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not decoded when a source is built")
        for kind, shown in columns.items():
            rows = [[rle(i, 3 * o, 5 if c[i] == "x" else 0) for o, c in enumerate(shown)] for i in range(len(shown[0]))]
            content = {
                "masklet": rows,
                "masklet_id": list(range(len(shown))),
                "video_height": 20.0,
                "video_width": 30.0,
            }
            write_json(tmp_path / f"{place}_{kind}.json", {**content, **fields})
        return path

    return video


def test_frames_and_the_objects_they_show(tmp_path, write):
    path = write("sav/sav_000/sav_000001", {"manual": ["xx.xx", "x...."]})
    source = SAVSource(tmp_path)
    assert (source.name, source.has_captions) == ("sav", False)
    assert not source.has_phrases and source.image_of(0) == source[0].image1.path
    assert source.skipped == {"frames without an object": 1}
    assert [(r.key, [g.id for g in r.regions1]) for r in source] == [
        ("sav/train/sav_000001/0", ["manual-0", "manual-1"]),
        ("sav/train/sav_000001/1", ["manual-0"]),
        ("sav/train/sav_000001/3", ["manual-0"]),
        ("sav/train/sav_000001/4", ["manual-0"]),
    ]
    record = source[2]
    assert record.image1.path == path and (record.image1.height, record.image1.width) == (20, 30)
    assert record.image1.frame == 12 and record.image2 is None and record.regions2 is None
    expected = np.zeros((20, 30))
    expected[3:8, 0:5] = 1
    np.testing.assert_array_equal(decode_mask(record.regions1[0].mask, 20, 30), expected)
    assert [record.key for record in SAVSource(tmp_path, stride=3)] == [
        "sav/train/sav_000001/0",
        "sav/train/sav_000001/3",
    ]


def test_pairs_show_the_same_objects_in_the_same_order(tmp_path, write):
    write("sav/sav_000001", {"manual": ["xxx.xx", ".xxxx.", "......"]})
    source = SAVSource(tmp_path, True, distance=2)
    assert source.skipped == {"pairs of frames 2 apart that show no common object": 1}
    assert [(r.key, [g.id for g in r.regions1]) for r in source] == [
        ("sav/train/sav_000001/0-2", ["manual-0"]),
        ("sav/train/sav_000001/1-3", ["manual-1"]),
        ("sav/train/sav_000001/2-4", ["manual-0", "manual-1"]),
    ]
    last = source[-1]
    assert last.image1.frame == 8 and last.image2.frame == 16
    assert [g.id for g in last.regions2] == [g.id for g in last.regions1]
    for number, region in enumerate(last.regions2):
        assert decode_mask(region.mask, 20, 30)[4, 3 * number] == 1
    with pytest.raises(DataError, match="no pair of frames shows an object"):
        SAVSource(tmp_path, True, distance=6)


def test_manual_and_auto_ids_do_not_collide(tmp_path, write):
    write("sav/a/sav_000001", {"manual": ["xx"], "auto": ["xxx"]})
    write("sav/b/sav_000002", {"auto": ["x"]})
    both = SAVSource(tmp_path, annotations="both")
    assert [[region.id for region in record.regions1] for record in both] == [
        ["manual-0", "auto-0"], ["manual-0", "auto-0"], ["auto-0"], ["auto-0"],
    ]  # fmt: skip
    manual = SAVSource(tmp_path)
    assert len(manual) == 2 and manual.skipped == {"videos without manual annotations": 1}
    assert len(SAVSource(tmp_path, annotations="auto")) == 4


def test_records_are_the_same_in_a_worker(tmp_path, write):
    write("sav_000001", {"manual": ["xxxx"]})
    source = SAVSource(tmp_path, True, distance=1)
    assert pickle.loads(pickle.dumps(source))[:] == source[:]


def test_a_real_video_is_read_at_four_times_the_annotated_frame(tmp_path, write):
    path = write("sav_000001", {"manual": ["xxxxxxx"]})
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = 20, 30, "yuv420p"
        for i in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((20, 30, 3), 10 * i, np.uint8))))
        container.mux(stream.encode())
    greys = [read_image(record.image1).mean() for record in SAVSource(tmp_path)]
    np.testing.assert_allclose(greys, [40 * i for i in range(7)], atol=4)


def test_splits_are_published_as_folders(tmp_path, write):
    write("sav_train/sav_000/sav_000001", {"manual": ["x"]})
    write("sav_val/sav_000002", {"manual": ["x"]})
    assert [record.key for record in SAVSource(tmp_path)] == ["sav/train/sav_000001/0"]
    assert [record.key for record in SAVSource(tmp_path, split="val")] == ["sav/val/sav_000002/0"]
    with pytest.raises(DataError, match="no split 'test'; splits there: train, val"):
        SAVSource(tmp_path, split="test")


def test_missing_files_and_wrong_options(tmp_path, write):
    with pytest.raises(DataError, match=r"no sav_N\.mp4.*data/README\.md"):
        SAVSource(tmp_path)
    path = write("sav_000001", {"manual": ["..."]})
    with pytest.raises(DataError, match="no frame shows an object"):
        SAVSource(tmp_path)
    with pytest.raises(DataError, match=r"none of 1 videos has sav_N_auto\.json"):
        SAVSource(tmp_path, annotations="auto")
    path.rename(tmp_path / "sav_000009.mp4")
    with pytest.raises(DataError, match="its only record is bad: .*sav_000001_manual.json: a JSON without its video"):
        SAVSource(tmp_path)
    wrong: list[dict[str, Any]] = [{"annotations": "all"}, {"distance": 0}, {"stride": 0}]
    for options in wrong:
        with pytest.raises(ConfigError):
            SAVSource(tmp_path, **options)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"masklet": None}, "'masklet' must be a list of lists"),
        ({"masklet": []}, "annotates no frame"),
        ({"masklet": [[]]}, "frame 0 must hold 1 RLEs"),
        ({"masklet_id": 3}, "'masklet_id' must be a list"),
        ({"video_height": 20.5}, "'video_height' must be a whole number"),
    ],
)
def test_a_malformed_json_is_an_error_that_names_it(tmp_path, write, fields, problem):
    write("sav_000001", {"manual": ["x"]}, **fields)
    with pytest.raises(DataError) as caught:
        SAVSource(tmp_path)
    assert problem in str(caught.value) and "sav_000001" in str(caught.value)


@pytest.mark.parametrize("pairs", [False, True])
def test_bad_videos_are_records_of_their_own(tmp_path, write, pairs):
    write("a/sav_000001", {"manual": ["xx"]})
    write("a/sav_000002", {"manual": ["xx"]}, masklet_id=3)
    write("a/sav_000003", {"manual": ["xx"]}).unlink()
    write("a/sav_000004", {"manual": ["xx"]})
    write("b/sav_000004", {"manual": ["xx"]})
    source = SAVSource(tmp_path, pairs, distance=1)
    frames = ["0-1"] if pairs else ["0", "1"]
    good1, good4 = ([f"sav/train/sav_00000{n}/{frame}" for frame in frames] for n in (1, 4))
    bad = [f"sav/train/sav_00000{n}" for n in (2, 3, 4)]
    assert [source.key_of(i) for i in range(len(source))] == [*good1, *bad[:2], *good4, bad[2]]
    assert {source.key_of(i): error.reason for i, error in source.bad.items()} == dict(
        zip(bad, ["malformed record", "missing file", "duplicate key"], strict=True)
    )
    place = len(good1)
    for index, message in (
        (place, r"sav_000002_manual\.json: 'masklet_id' must be a list"),
        (place + 1, r"sav_000003_manual\.json: a JSON without its video"),
        (-1, r"b/sav_000004\.mp4: sav_000004\.mp4 is in several sub-folders; .*a/sav_000004\.mp4 is the one in use"),
    ):
        with pytest.raises(DataError, match=message):
            source[index]
    for index in set(range(len(source))) - set(source.bad):
        assert source[index].key == source.key_of(index) and source.text_size_of(index) == (1, 0)
    assert source.text_size_of(place) is None and source.image_of(place) == tmp_path / "a" / "sav_000002.mp4"
    assert source.annotation_of(0).endswith("sav_000001_manual.json")


def test_a_json_in_another_folder_is_used_and_its_second_copy_named(tmp_path, write):
    for place in ("a", "b"):
        write(f"{place}/sav_000001", {"manual": ["x"]})
    (tmp_path / "a" / "sav_000001.mp4").unlink()
    source = SAVSource(tmp_path)
    assert source[0].image1.path == tmp_path / "b" / "sav_000001.mp4" and source.annotation_of(0).count("/b/") == 1
    assert [error.reason for error in source.bad.values()] == ["duplicate key"]


def test_a_malformed_mask_is_an_error_when_decoded_not_when_built(tmp_path, write):
    write("sav_000001", {"manual": ["x"]}, masklet=[[{"size": [20, 30], "counts": "P"}]])
    region = SAVSource(tmp_path)[0].regions1[0]
    with pytest.raises(MaskDecodeError, match="cut off"):
        decode_mask(region.mask, 20, 30)
