"""Referring video sets that do not fit: bad videos are bad records, and what ends a whole set."""

from __future__ import annotations

import json

import pytest

from maskcap.data.rle import decode_mask
from maskcap.data.sources import ReferringVideoSource
from maskcap.errors import ConfigError, DataError, MaskDecodeError
from tests.data.sources.referring import FRAMES, HEIGHT, WIDTH, column_of, draw


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
    ref_youtube_vos({str(i): column_of(draw(i)) for i in range(5)})
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
