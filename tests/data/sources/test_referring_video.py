"""ReVOS, MeVIS and Ref-YouTube-VOS: expressions about videos, one mask for each frame."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.images import read_image
from maskcap.data.rle import decode_mask
from maskcap.data.sample import make_sample
from maskcap.data.sources import ReferringVideoSource
from maskcap.errors import ConfigError, DataError, MaskDecodeError

HEIGHT, WIDTH = 24, 32
FRAMES = ["00000", "00005", "00010", "00015"]


def _draw(seed: int) -> list[np.ndarray | None]:
    """An object's masks over the frames: it is absent from the third."""
    rng = np.random.default_rng(seed)
    masks: list[np.ndarray | None] = []
    for i in range(len(FRAMES)):
        top, left = rng.integers(0, 12, 2)
        mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask_HW[top : top + 9, left : left + 11] = 1
        masks.append(None if i == 2 else mask_HW)
    return masks


def _column(masks: list[np.ndarray | None], as_bytes: bool = False) -> list[dict | None]:
    column: list[dict | None] = []
    for mask in masks:
        rle: Any = None if mask is None else coco.encode(np.asfortranarray(mask))
        column.append(rle and {"size": rle["size"], "counts": rle["counts"] if as_bytes else rle["counts"].decode()})
    return column


def _write_frames(folder: Path, videos: dict[str, dict]) -> None:
    for name, video in videos.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(video["frames"]):
            Image.new("RGB", (WIDTH, HEIGHT), (60 * number, 90, 30)).save(folder / name / f"{frame}.jpg")


def _expected(*objects: list[np.ndarray | None]) -> np.ndarray:
    """Union over objects in each frame, (F, H, W)."""
    union = np.zeros((len(FRAMES), HEIGHT, WIDTH), np.uint8)
    for masks in objects:
        for i, mask in enumerate(masks):
            if mask is not None:
                union[i] |= mask
    return union


def _decoded(region) -> np.ndarray:
    return np.stack([decode_mask(mask, HEIGHT, WIDTH) for mask in region.frame_masks])


@pytest.fixture
def mevis(tmp_path):
    """mevis(expressions, …) → source of one video "dance" with annotations 11 and 12, in MeVIS's layout."""

    def make(expressions: dict, frames: Any = None, **options) -> ReferringVideoSource:
        folder = tmp_path / "mevis" / "train"
        good = {"frames": FRAMES, "expressions": {"0": {"exp": "the good one", "anno_id": [11], "obj_id": [0]}}}
        videos = {
            "good": good,
            "dance": {"frames": FRAMES[::-1] if frames is None else frames, "expressions": expressions},
        }
        _write_frames(folder / "JPEGImages", {"good": good, "dance": good})
        (folder / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
        masks = {"11": _column(_draw(1)), "12": _column(_draw(2)), "13": _column(_draw(1))[:2], "14": 7}
        masks["15"] = [{**masks["11"][0], "size": [HEIGHT, WIDTH + 1]}, None, None, None]
        masks["16"] = [None, {"size": [HEIGHT, WIDTH], "counts": "0"}, "what", None]
        (folder / "mask_dict.json").write_text(json.dumps(masks))
        return ReferringVideoSource(tmp_path, "mevis", **options)

    return make


def test_a_video_is_one_record_with_its_expressions(mevis, tmp_path):
    expressions = {
        "0": {"exp": "the one that turns", "anno_id": [11], "obj_id": [0]},
        "1": {"exp": "both dancers", "anno_id": [11, 12], "obj_id": [0, 1]},
        "2": {"exp": "a cat", "anno_id": [], "obj_id": []},
    }
    source = mevis(expressions)
    assert (source.name, len(source), source.skipped, dict(source.bad)) == ("mevis", 2, {}, {})
    assert source.has_captions and source.has_phrases and not source.has_turns
    assert source.text_size_of(1) == (3, len("the one that turnsboth dancersa cat"))
    assert source.image_of(0) != source.image_of(1) and source.annotation_of(1).endswith("meta_expressions.json")
    record = source[1]
    assert record.key == source.key_of(1) == "mevis/train/dance"
    folder = tmp_path / "mevis" / "train" / "JPEGImages" / "dance"
    assert [ref.path for ref in record.frames] == [folder / f"{name}.jpg" for name in FRAMES]  # sorted
    assert record.image1 == record.frames[0] and record.image2 is None
    for number, ref in enumerate(record.frames):
        assert (ref.height, ref.width) == (HEIGHT, WIDTH)
        assert abs(int(read_image(ref)[0, 0, 0]) - 60 * number) <= 2
    assert [(r.id, r.captions, r.referring, r.may_be_empty) for r in record.regions1] == [
        ("0", ("the one that turns",), True, True),
        ("1", ("both dancers",), True, True),
        ("2", ("a cat",), True, True),
    ]
    one, two = _draw(1), _draw(2)
    for region, expected in zip(record.regions1, [_expected(one), _expected(one, two), _expected()], strict=True):
        np.testing.assert_array_equal(_decoded(region), expected)
        assert region.mask == region.frame_masks[0] and len(region.frame_masks) == len(FRAMES)
        assert pickle.loads(pickle.dumps(region)) == region and region.frame_masks[1:3] == list(region.frame_masks)[1:3]


def test_a_sample_takes_frames_of_each_span(mevis):
    expressions = {"0": {"exp": "both", "anno_id": [11, 12]}, "1": {"exp": "a cat", "anno_id": []}}
    record = mevis(expressions)[1]
    sample = make_sample(
        record, np.random.default_rng(0), image_size=HEIGHT, regions_per_image=None, frames_per_sample=4
    )
    assert sample["frames"].shape == (3, 3, HEIGHT, HEIGHT) and sample["frame_masks"].shape == (2, 3, HEIGHT, HEIGHT)
    assert sample["phrase"] == ["both", "a cat"] and sample["empty"] == (False, True)
    assert sample["mask1"][0].any() and not sample["mask1"][1].any()
    assert not sample["frame_masks"][0, 1].any() and sample["frame_masks"][0, 2].any()


def test_revos_keeps_both_splits_in_one_folder(tmp_path):
    folder = tmp_path / "ReVOS"
    videos = {
        "TAO/v1": {"frames": FRAMES, "expressions": {"0": {"exp": "who jumps?", "anno_id": [3], "obj_id": [1]}}},
        "UVO/v2": {"frames": FRAMES, "expressions": {}},
    }
    _write_frames(folder, {f"JPEGImages/{name}": video for name, video in videos.items()})
    (folder / "mask_dict.json").write_text(json.dumps({"3": _column(_draw(3))}))
    for split in ("train", "valid"):
        (folder / f"meta_expressions_{split}_.json").write_text(json.dumps({"videos": videos}))
        source = ReferringVideoSource(tmp_path, split=split)
        assert [record.key for record in source] == [f"revos/{split}/TAO/v1"]
        assert source.skipped == {"videos without expressions": 1}
        np.testing.assert_array_equal(_decoded(source[0].regions1[0]), _expected(_draw(3)))


@pytest.fixture
def ref_youtube_vos(tmp_path):
    """ref_youtube_vos(content of mask_dict.pkl) → source of two videos, whose expressions are numbered 0 to 3."""

    def make(masks: object, **options) -> ReferringVideoSource:
        root = tmp_path / "rvos"
        one = {"frames": FRAMES, "expressions": {"1": {"exp": "b", "obj_id": "2"}, "0": {"exp": "a", "obj_id": "1"}}}
        two = {"frames": FRAMES, "expressions": {"0": {"exp": "c"}, "10": {"exp": "e"}, "2": {"exp": "d"}}}
        _write_frames(root / "train" / "JPEGImages", {"zebra": one, "ape": two})
        (root / "meta_expressions" / "train").mkdir(parents=True, exist_ok=True)
        videos = {"videos": {"zebra": one, "ape": two}}
        (root / "meta_expressions" / "train" / "meta_expressions.json").write_text(json.dumps(videos))
        (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks, protocol=2))
        return ReferringVideoSource(tmp_path, "ref_youtube_vos", **options)

    return make


@pytest.mark.parametrize("as_bytes", [True, False])
def test_ref_youtube_vos_numbers_its_annotations(ref_youtube_vos, as_bytes):
    source = ref_youtube_vos({str(i): _column(_draw(i), as_bytes) for i in range(5)})
    assert [record.key for record in source] == ["ref_youtube_vos/train/zebra", "ref_youtube_vos/train/ape"]
    texts = {region.captions[0]: _decoded(region) for record in source for region in record.regions1}
    for number, text in enumerate("abced"):  # of ape, "10" comes before "2"
        np.testing.assert_array_equal(texts[text], _expected(_draw(number)))


class _Runs:
    def __reduce__(self):
        return print, ("this code was run",)


def test_an_unsafe_pickle_is_refused(ref_youtube_vos, capsys):
    with pytest.raises(DataError, match=r"mask_dict\.pkl: the pickle holds \w+\.print"):
        ref_youtube_vos({"0": [_Runs()]})
    assert "this code was run" not in capsys.readouterr().out
    with pytest.raises(DataError, match=r"mask_dict\.pkl: expected an object"):
        ref_youtube_vos([1, 2])


def test_entries_that_do_not_fit_are_named(mevis, tmp_path):
    cases: list[tuple[dict, str]] = [
        ({"exp": "x", "anno_id": [99]}, "its annotation 99 is not in"),
        ({"exp": "x", "anno_id": [13]}, "its annotation 13 has masks of 2 frames"),
        ({"exp": "x", "anno_id": [14]}, "annotation 14 of"),
        ({"exp": " ", "anno_id": [11]}, "its 'exp' is no text or empty"),
        ({"exp": "x"}, "'anno_id' must be a list"),
        ({"exp": "x", "anno_id": 11}, "'anno_id' must be a list"),
    ]
    for entry, problem in cases:
        source = mevis({"0": {"exp": "fine", "anno_id": [11]}, "8": entry})
        assert list(source.bad) == [1] and source[0].key == "mevis/train/good"
        with pytest.raises(DataError) as caught:
            source[1]
        message = str(caught.value)
        assert problem in message and "meta_expressions.json, video 'dance', expression '8'" in message
        assert source.text_size_of(1) is None and source.key_of(1) == "mevis/train/dance"
    several = mevis({"0": cases[0][0], "1": cases[3][0]})
    assert "annotation 99" in str(several.bad[1]) and "is no text" in str(several.bad[1])


def test_frames_that_do_not_fit_are_named(mevis, tmp_path):
    fine = {"0": {"exp": "fine", "anno_id": [11]}}
    missing = mevis(fine, [*FRAMES[:3], "00099"])
    assert missing.bad[1].reason == "missing file" and "1 of 4 frames are missing in" in str(missing.bad[1])
    assert "00099.jpg" in str(missing.bad[1]) and "video 'dance'" in str(missing.bad[1])
    assert "the video has no frames" in str(mevis(fine, []).bad[1])
    assert "'frames' must be a list of texts" in str(mevis(fine, [1]).bad[1])
    with pytest.raises(DataError, match=r"mevis/train/dance, expression 0: its masks are of size \[24, 33\]"):
        mevis({"0": {"exp": "x", "anno_id": [15]}})[1]
    wrong = mevis({"0": {"exp": "x", "anno_id": [16]}, "1": {"exp": "x", "anno_id": [11, 16]}})[1]
    for region in wrong.regions1:  # read when its frame is drawn, and not before
        problem = f"mevis/train/dance, expression {region.id}, frame 00010: an RLE or null expected, got str"
        with pytest.raises(MaskDecodeError, match=problem):
            decode_mask(region.frame_masks[2], HEIGHT, WIDTH)
        assert not decode_mask(region.frame_masks[3], HEIGHT, WIDTH).any() or region.id == "1"
    source = mevis(fine)
    frame = tmp_path / "mevis" / "train" / "JPEGImages" / "dance" / f"{FRAMES[0]}.jpg"
    frame.write_bytes(b"torn")
    with pytest.raises(DataError, match=r"mevis/train/dance: .*00000\.jpg: the image's header cannot be read"):
        source[1]


def test_sets_that_cannot_be_used_at_all_are_errors(mevis, ref_youtube_vos, tmp_path):
    with pytest.raises(ConfigError, match="dataset must be one of revos, mevis, ref_youtube_vos"):
        ReferringVideoSource(tmp_path, "davis")
    with pytest.raises(DataError, match=r"the expressions of revos train not found\. Looked for: .*meta_expressions"):
        ReferringVideoSource(tmp_path)
    fine = {"0": {"exp": "fine", "anno_id": [11]}}
    meta = tmp_path / "mevis" / "train" / "meta_expressions.json"
    mevis(fine)
    source = ReferringVideoSource(
        "nowhere", "mevis", expressions=meta, masks=meta.parent / "mask_dict.json", images=meta.parent / "JPEGImages"
    )
    assert len(source) == 2
    with pytest.raises(DataError, match="no such folder of frames of mevis train"):
        mevis(fine, images=tmp_path / "none")
    for content, problem in (
        ({"videos": {}}, "expected an object with 'videos'"),
        ({"videos": {"a": {"frames": FRAMES}}}, "only record is bad: .*video 'a': the video has no 'expressions'"),
        ({"videos": {"a": {"frames": FRAMES, "expressions": {}}}}, "no video has an expression"),
    ):
        meta.write_text(json.dumps(content))
        with pytest.raises(DataError, match=problem):
            ReferringVideoSource(tmp_path, "mevis")
    with pytest.raises(DataError, match=r"the masks of mevis train not found"):
        mevis(fine, masks=tmp_path / "none.json")
    ref_youtube_vos({str(i): _column(_draw(i)) for i in range(5)})
    meta = tmp_path / "rvos" / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({"videos": {"none": {"frames": FRAMES}, **content["videos"]}}))
    # Here it ends the set: the later expressions' numbers are unknown.
    with pytest.raises(DataError, match=r"meta_expressions\.json, video 'none': the video has no 'expressions'"):
        ReferringVideoSource(tmp_path, "ref_youtube_vos")


def test_a_bad_video_is_a_bad_record_of_its_own(mevis, tmp_path):
    mevis({"0": {"exp": "fine", "anno_id": [11]}})
    meta = tmp_path / "mevis" / "train" / "meta_expressions.json"
    content = json.loads(meta.read_text())
    fine, outside = content["videos"]["dance"], str(tmp_path / "mevis" / "train" / "JPEGImages" / "dance")
    names = {"x" * 300: "no folder can have its name", "../JPEGImages/dance": "no absolute path", outside: "no '..'"}
    bad = {"bare": {"frames": FRAMES}, "nothing": None, "listed": {**fine, "expressions": ["a cat"]}}
    meta.write_text(json.dumps({"videos": {**dict.fromkeys(names, fine), **bad, **content["videos"]}}))
    source = ReferringVideoSource(tmp_path, "mevis")
    problems = [*names.values(), *["the video has no 'expressions'"] * 3]
    assert list(source.bad) == list(range(6)) and len(source) == 8 and source.skipped == {}
    for index, (name, problem) in enumerate(zip([*names, *bad], problems, strict=True)):
        with pytest.raises(DataError, match=problem) as caught:
            source[index]
        assert f"{meta}, video {name!r}" in str(caught.value)
    assert [source[i].key for i in (6, 7)] == ["mevis/train/good", "mevis/train/dance"]


def test_expressions_that_no_frame_shows_stay_and_are_counted(mevis, tmp_path, caplog):
    said = {"0": {"exp": "a", "anno_id": [11]}, "1": {"exp": "b", "anno_id": [17, 18]}, "2": {"exp": "c", "anno_id": []}}
    mevis(said)
    path = tmp_path / "mevis" / "train" / "mask_dict.json"
    nulls = dict.fromkeys(("17", "18"), [None] * len(FRAMES))
    path.write_text(json.dumps(json.loads(path.read_text()) | nulls))
    caplog.clear()
    record = ReferringVideoSource(tmp_path, "mevis")[1]
    assert [bool(_decoded(region).any()) for region in record.regions1] == [True, False, False]
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert f"{path}: 1 expressions have annotations without a mask" in warning
    assert warning.endswith("mevis/train/dance, expression 1")


def test_masks_of_one_split_are_not_taken_for_another(mevis, tmp_path):
    mevis({"0": {"exp": "fine", "anno_id": [11]}})
    base = tmp_path / "mevis"
    shutil.copy(base / "train" / "mask_dict.json", base)
    (base / "train").rename(base / "valid_u")
    (base / "valid_u" / "mask_dict.json").unlink()
    with pytest.raises(DataError, match="the masks of mevis valid_u not found") as caught:
        ReferringVideoSource(tmp_path, "mevis", "valid_u")
    assert str(base / "mask_dict.json") not in str(caught.value)
    given = ReferringVideoSource(tmp_path, "mevis", "valid_u", masks=base / "mask_dict.json")
    assert len(given) == 2
    # The plain layout: everything in the data set's own folder.
    for name in ("meta_expressions.json", "JPEGImages"):
        (base / "valid_u" / name).rename(base / name)
    (base / "valid_u").rmdir()
    assert [record.key for record in ReferringVideoSource(tmp_path, "mevis")] == ["mevis/train/good", "mevis/train/dance"]
