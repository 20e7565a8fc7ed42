"""SAVSource with Ref-SAV's captions, and whole videos; the set is written here, with real videos."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pycocotools import mask as coco

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sources import SAVSource
from maskcap.errors import ConfigError, DataError

HEIGHT, WIDTH, ANNOTATED = 32, 48, 5
SHOWN = {"manual": ["xx.xx", ".x..x", "....."], "auto": ["xxx"]}  # of each object, in each annotated frame


def drawn(kind: str, column: int, frame: int) -> np.ndarray:
    """The object's mask in an annotated frame: a box that moves right; nothing where it is absent."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    shown = SHOWN[kind][column]
    if frame < len(shown) and shown[frame] == "x":
        top = 4 + 9 * column + (2 if kind == "auto" else 0)
        mask[top : top + 6, 3 + 4 * frame : 12 + 4 * frame] = 1
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle: Any = coco.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def write_video(folder: Path, name: str, kinds: tuple[str, ...] = ("manual", "auto")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(folder / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(4 * ANNOTATED - 3):
            grey = np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())
    for kind in kinds:
        rows = []
        for frame in range(len(SHOWN[kind][0])):
            masks = [drawn(kind, column, frame) for column in range(len(SHOWN[kind]))]
            # the published files have empty RLEs; some tools write null
            rows.append([compressed(m) if m.any() or column == 1 else None for column, m in enumerate(masks)])
        ids = [10 + column for column in range(len(SHOWN[kind]))]
        sizes = {"video_height": float(HEIGHT), "video_width": float(WIDTH), "video_frame_count": 17.0}
        (folder / f"{name}_{kind}.json").write_text(json.dumps({"masklet": rows, "masklet_id": ids, **sizes}))


def entry(name: str, kind: str = "manual", **phrases: Any) -> dict[str, Any]:
    paths = {"video_path": f"sav_train/sav_000/{name}.mp4", "anno_path": f"sav_train/sav_000/{name}_{kind}.json"}
    objects = {number[1:]: {"formated": phrase, "category": "thing"} for number, phrase in phrases.items()}
    return {**paths, "objects": objects}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("sav_000001", "sav_000002"):
        write_video(tmp_path / "sav" / "sav_000", name)
    return tmp_path


def told(root: Path, **entries: Any) -> Path:
    path = root / "Ref-SAV.json"
    path.write_text(json.dumps(entries))
    return path


def test_captions_of_frames_and_pairs(root: Path):
    path = told(root, sav_000001=entry("sav_000001", _0="the red box", _1=None), sav_000002=entry("sav_000002", _1="b"))
    source = SAVSource(root, captions=path)
    assert source.has_captions and source.has_phrases and source.bad == {}
    first, second = source[0], source[1]
    assert [region.captions for region in first.regions1] == [("the red box",)]
    assert [(region.id, region.captions) for region in second.regions1] == [
        ("manual-10", ("the red box",)),
        ("manual-11", ()),
    ]
    np.testing.assert_array_equal(decode_mask(second.regions1[0].mask, HEIGHT, WIDTH), drawn("manual", 0, 1))
    assert source.text_size_of(1) == (2, len("the red box"))
    pair = SAVSource(root, True, distance=3, captions=path)[1]
    assert pair.regions2 is not None
    assert [[g.captions for g in regions] for regions in (pair.regions1, pair.regions2)] == [[("the red box",), ()]] * 2
    assert not SAVSource(root).has_captions and SAVSource(root)[0].regions1[0].captions == ()


def test_a_video_has_all_annotated_frames_with_a_mask_of_each_object_in_each(root: Path):
    source = SAVSource(root, video=True, annotations="both")
    assert [source.key_of(i) for i in range(len(source))] == ["sav/train/sav_000001", "sav/train/sav_000002"]
    assert source.skipped == {"objects that no frame shows": 2} and not source.has_phrases
    record = source[0]
    assert [frame.frame for frame in record.frames] == [0, 4, 8, 12, 16] and record.image1 == record.frames[0]
    greys = [read_image(frame).mean() for frame in record.frames]
    np.testing.assert_allclose(greys, [40 * i for i in range(5)], atol=5)
    assert [region.id for region in record.regions1] == ["manual-10", "manual-11", "auto-10"]
    objects = [("manual", 0), ("manual", 1), ("auto", 0)]  # the auto annotation ends after three frames
    for region, (kind, column) in zip(record.regions1, objects, strict=True):
        assert region.may_be_empty and region.mask is region.frame_masks[0] and region.captions == ()
        masks = [decode_mask(mask, HEIGHT, WIDTH) for mask in region.frame_masks]
        np.testing.assert_array_equal(masks, [drawn(kind, column, frame) for frame in range(5)])
    assert source.text_size_of(0) == (3, 0) and pickle.loads(pickle.dumps(source))[1] == source[1]
    thinned = SAVSource(root, video=True, stride=2)[0]
    assert [frame.frame for frame in thinned.frames] == [0, 8, 16]
    assert [decode_mask(mask, HEIGHT, WIDTH).any() for mask in thinned.regions1[0].frame_masks] == [True, False, True]


def test_a_video_with_captions_has_the_objects_with_a_phrase_alone(root: Path):
    path = told(
        root, sav_000001=entry("sav_000001", _0="the box", _2="never seen"), other=entry("sav_000002", "auto", _0="c")
    )
    source = SAVSource(root, video=True, captions=path, annotations="both")
    assert [[(g.id, g.captions) for g in record.regions1] for record in source] == [
        [("manual-10", ("the box",))],
        [("auto-10", ("c",))],
    ]
    assert source.skipped == {"objects without a phrase": 5, "objects that no frame shows": 1}
    assert source.text_size_of(0) == (1, len("the box"))
    alone = SAVSource(root, video=True, captions=told(root, sav_000001=entry("sav_000001", _1="x")))
    assert alone.skipped == {"objects without a phrase": 5, "videos without a phrase": 1} and len(alone) == 1


GOOD = entry("sav_000001", _0="box")


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize(
    ("wrong", "reason", "problem"),
    [
        (entry("sav_000002", _7="x"), "unknown object", "no object 7: .*sav_000002_manual.json has 3, numbered from 0"),
        (entry("sav_000002", _1=" "), "empty caption", "object '1': 'formated' is empty"),
        (entry("sav_000002", _1=3), "malformed record", "object '1': 'formated' must be a text"),
        (
            entry("sav_000002", **{"_" + "9" * 5000: "x"}),
            "malformed record",
            "object '9{40}': an object's id is its column",
        ),
        (entry("sav_000002", _0="x", _00="y"), "duplicate key", "object '00': column 0 is named twice"),
        (entry("sav_000002", _x="x"), "malformed record", "object 'x': an object's id is its column"),
        (entry("sav_000002", "auto", _0="x"), "malformed record", "of auto annotations, but manual is read. Set"),
        ({**GOOD, "video_path": "sav_000002.mp4"}, "malformed record", "must be sav_000002_manual.json or"),
        ({"video_path": "sav_000002.mp4"}, "malformed record", "expected an object with 'anno_path'"),
        ({**entry("sav_000002"), "objects": ["x"]}, "malformed record", "'objects' must be an object of"),
        ({**entry("sav_000002"), "objects": {"0": "x"}}, "malformed record", "expected an object with 'formated'"),
    ],
)
def test_a_bad_entry_makes_its_video_bad(root: Path, video: bool, wrong: Any, reason: str, problem: str):
    path = told(root, good=GOOD, wrong=wrong)
    source = SAVSource(root, captions=path, video=video)
    (place,) = source.bad
    assert source.key_of(place) == "sav/train/sav_000002" and source.key_of(0).startswith("sav/train/sav_000001")
    with pytest.raises(DataError, match=problem) as caught:
        source[place]
    assert f"{path}, video 'wrong'" in str(caught.value) and caught.value.reason == reason


@pytest.mark.parametrize("other", ["auto", "manual"])
def test_the_setting_that_reads_every_phrase_is_named(root: Path, other: str):
    path = told(root, one=entry("sav_000001", "auto", _0="x"), two=entry("sav_000002", other, _0="y"))
    problem = r"of auto annotations, but manual is read\. Set annotations=(\w+)"
    with pytest.raises(DataError, match=problem) as caught:
        list(SAVSource(root, captions=path, video=True))
    setting = {"auto": "auto", "manual": "both"}[other]
    assert f"annotations={setting}." in str(caught.value)
    assert not SAVSource(root, captions=path, video=True, annotations=setting).bad


def test_videos_that_are_missing_or_named_twice(root: Path):
    path = told(
        root, a=GOOD, b=entry("sav_000009", _0="x"), c=entry("sav_000002", _0="y"), d=entry("sav_000002", _1="z")
    )
    source = SAVSource(root, captions=path, video=True)
    assert [source.key_of(i) for i in range(3)] == [f"sav/train/sav_00000{n}" for n in (1, 2, 9)]
    assert {i: error.reason for i, error in source.bad.items()} == {1: "duplicate key", 2: "missing file"}
    assert "video 'd': sav_000002 is also that of 'c'" in str(source.bad[1])
    assert "video 'b': the video sav_train/sav_000/sav_000009.mp4 is not in" in str(source.bad[2])
    assert source.image_of(2) == root / "sav" / "sav_000009.mp4"


def test_options_that_exclude_each_other_and_files_that_are_none(root: Path):
    with pytest.raises(ConfigError, match="pairs and video"):
        SAVSource(root, True, video=True)
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        SAVSource(root, captions=root / "none.json")
    (root / "list.json").write_text("[]")
    with pytest.raises(DataError, match=r"list\.json: expected an object of videos"):
        SAVSource(root, captions=root / "list.json")
    with pytest.raises(DataError, match="no video shows an object.*'videos without a phrase': 2"):
        SAVSource(root, captions=told(root, a=entry("sav_000001", _0=None)), video=True)
