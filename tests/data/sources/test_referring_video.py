"""ReVOS, MeVIS and Ref-YouTube-VOS: expressions about videos, one mask for each frame."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from maskcap.data.images import read_image
from maskcap.data.sample import make_sample
from maskcap.data.shards import ShardSource
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import ReferringVideoSource
from maskcap.errors import DataError
from tests.data.sources.referring import FRAMES, HEIGHT, WIDTH, column_of, decoded, draw, expected_of, write_frames


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
    one, two = draw(1), draw(2)
    for region, expected in zip(record.regions1, [expected_of(one), expected_of(one, two), expected_of()], strict=True):
        np.testing.assert_array_equal(decoded(region), expected)
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
    write_frames(folder, {f"JPEGImages/{name}": video for name, video in videos.items()})
    (folder / "mask_dict.json").write_text(json.dumps({"3": column_of(draw(3))}))
    for split in ("train", "valid"):
        (folder / f"meta_expressions_{split}_.json").write_text(json.dumps({"videos": videos}))
        source = ReferringVideoSource(tmp_path, split=split)
        assert [record.key for record in source] == [f"revos/{split}/TAO/v1"]
        assert source.skipped == {"videos without expressions": 1}
        np.testing.assert_array_equal(decoded(source[0].regions1[0]), expected_of(draw(3)))


@pytest.mark.parametrize("as_bytes", [True, False])
def test_ref_youtube_vos_numbers_its_annotations(ref_youtube_vos, as_bytes):
    source = ref_youtube_vos({str(i): column_of(draw(i), as_bytes) for i in range(5)})
    assert [record.key for record in source] == ["ref_youtube_vos/train/zebra", "ref_youtube_vos/train/ape"]
    texts = {region.captions[0]: decoded(region) for record in source for region in record.regions1}
    for number, text in enumerate("abced"):  # of ape, "10" comes before "2"
        np.testing.assert_array_equal(texts[text], expected_of(draw(number)))


class _Runs:
    def __reduce__(self):
        return print, ("this code was run",)


def test_an_unsafe_pickle_is_refused(ref_youtube_vos, capsys):
    with pytest.raises(DataError, match=r"mask_dict\.pkl: the pickle holds \w+\.print"):
        ref_youtube_vos({"0": [_Runs()]})
    assert "this code was run" not in capsys.readouterr().out
    with pytest.raises(DataError, match=r"mask_dict\.pkl: expected an object"):
        ref_youtube_vos([1, 2])


def test_expressions_that_no_frame_shows_stay_and_are_counted(mevis, tmp_path, caplog):
    said = {
        "0": {"exp": "a", "anno_id": [11]},
        "1": {"exp": "b", "anno_id": [17, 18]},
        "2": {"exp": "c", "anno_id": []},
    }
    mevis(said)
    path = tmp_path / "mevis" / "train" / "mask_dict.json"
    nulls = dict.fromkeys(("17", "18"), [None] * len(FRAMES))
    path.write_text(json.dumps(json.loads(path.read_text()) | nulls))
    caplog.clear()
    record = ReferringVideoSource(tmp_path, "mevis")[1]
    assert [bool(decoded(region).any()) for region in record.regions1] == [True, False, False]
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
    assert [record.key for record in ReferringVideoSource(tmp_path, "mevis")] == [
        "mevis/train/good",
        "mevis/train/dance",
    ]


def test_masks_that_are_united_on_demand_are_stored_like_others(mevis, tmp_path):
    source = mevis({"0": {"exp": "both", "anno_id": [11, 12]}, "1": {"exp": "a cat", "anno_id": []}})
    write_shards(source, tmp_path / "shards", workers=0)
    there = ShardSource(tmp_path / "shards")
    assert len(there) == 2
    for record, original in zip(there, source, strict=True):
        for region, wanted in zip(record.regions1, original.regions1, strict=True):
            assert np.array_equal(decoded(region), decoded(wanted))
            assert replace(region, mask=[], frame_masks=()) == replace(wanted, mask=[], frame_masks=())
    assert np.array_equal(decoded(there[1].regions1[0]), expected_of(draw(1), draw(2)))
