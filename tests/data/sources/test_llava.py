"""LLaVA: questions and answers about an image or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from maskcap.data.images import read_image
from maskcap.data.sample import make_sample
from maskcap.data.sources import LlavaSource
from maskcap.data.turns import bad_turns
from maskcap.errors import DataError


def _talk(*texts: str, first: str = "human") -> list[dict]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]


def _said(record) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in record.turns]


BAD_TALKS = [
    (_talk("A", "Q", first="gpt"), "the conversation has no question with an answer"),
    (_talk("Q", "A") + _talk("A", first="gpt"), "must go 'human', 'gpt'"),
    (_talk("Q", "A", "Q2", "A2")[::2], "must go 'human', 'gpt'"),
    ([{"from": "human", "value": 7}], "must have texts as 'value'"),
    ("hello", "'conversations' must be a list of objects"),
    ([], "the conversation has no question with an answer"),
    (_talk(" ", "A"), "the question of turn 1 is empty"),
    (_talk("Q", "A", "Q2", "  "), "the answer of turn 2 is empty"),
]


@pytest.fixture
def llava(tmp_path, write_image, write_json):
    """llava(entries) → source, with the images coco/train2017/1.jpg and gqa/images/1.jpg."""
    for folder in ("coco/train2017", "gqa/images"):
        write_image(tmp_path / folder / "1.jpg")

    def make(*entries: object) -> LlavaSource:
        return LlavaSource(write_json(tmp_path / "llava_v1_5_mix665k.json", list(entries)), tmp_path)

    return make


def test_llava_has_turns_about_an_image_or_none(llava, tmp_path):
    source = llava(
        {
            "id": "1",
            "image": "coco/train2017/1.jpg",
            "conversations": _talk("<image>\nWhat?", "A dog.", "Where?", " Here. "),
        },
        {"id": "s", "conversations": _talk("Hello.", "Hi.\n\nWell?")},
        {"id": "1", "image": "gqa/images/1.jpg", "conversations": _talk("Which one?\n<image>", "That.", "And then?")},
        {"id": "t", "model": "", "conversations": _talk("Hm.", "2 + 2?", "4.", first="gpt")},
    )
    assert (source.name, dict(source.bad)) == ("llava", {})
    assert source.has_turns and not source.has_captions and not source.has_phrases
    assert [record.key.removeprefix("llava/llava_v1_5_mix665k/") for record in source] == ["1", "s", "1#2", "t"]
    assert [_said(record) for record in source] == [
        [("What?", "A dog."), ("Where?", "Here.")],
        [("Hello.", "Hi.\n\nWell?")],
        [("Which one?", "That.")],
        [("2 + 2?", "4.")],
    ]
    assert source.skipped == {"turns without an answer": 1, "answers before the first question": 1}
    image = source[0].image1
    assert image.path == source.image_of(0) == tmp_path / "coco/train2017/1.jpg" and (image.height, image.width) == (
        20,
        30,
    )
    assert source[2].image1.path == tmp_path / "gqa/images/1.jpg"
    assert source[1].image1 is None and source.image_of(1) == source.key_of(1) and source[0].regions1 == ()
    assert source.text_size_of(0) == (0, len("What?A dog.Where?Here."))
    sample = make_sample(source[1], np.random.default_rng(0), image_size=16)
    assert sample["blank"] and not sample["image1"].any() and sample["turns"] == source[1].turns


def test_llava_takes_paths_as_they_are_written(llava):
    good = {"id": "g", "image": "gqa/images/1.jpg", "conversations": _talk("Q", "A")}
    source = llava(good, {"image": "vg/images/1.jpg", "conversations": _talk("Q", "A")})  # another set's 1.jpg
    assert source.bad[1].reason == "missing file"
    with pytest.raises(
        DataError, match=r"llava/llava_v1_5_mix665k/1 .*entry 1\): the image vg/images/1\.jpg is missing"
    ):
        source[1]


def test_llava_strips_its_own_placeholder_alone(llava):
    texts = (
        "<image>\nIs <image> a tag, or <video>?", "<image> is.", "<video>\nIs <region3> one?", "<region3> is not.",
        "And the end?<image> ", "Yes.",
    )  # fmt: skip
    source = llava({"image": "coco/train2017/1.jpg", "conversations": _talk(*texts)}, {"conversations": _talk(*texts)})
    assert _said(source[0]) == [
        ("Is <image> a tag, or <video>?", "<image> is."),
        ("<video>\nIs region 3 one?", "<region3> is not."),
        ("And the end?", "Yes."),
    ]
    assert _said(source[1]) == [  # without an image nothing stands for one
        ("<image>\nIs <image> a tag, or <video>?", "<image> is."),
        ("<video>\nIs region 3 one?", "<region3> is not."),
        ("And the end?<image>", "Yes."),
    ]
    assert source.bad == {} and source.skipped == {"questions whose <regionN> was written in words": 2}
    assert [list(bad_turns(record)) for record in source] == [[], []]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_llavas_images_are_seen_as_viewers_show_them(llava, tmp_path, orientation):
    path = tmp_path / "gqa/images/1.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:8, :8] = 250  # one corner tells all eight views apart but for transposition, the bar the rest
    stored[:8, 16:] = 120
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    ref = llava({"image": "gqa/images/1.jpg", "conversations": _talk("Q", "A")})[0].image1
    with Image.open(path) as opened:
        expected = np.array(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    assert (ref.height, ref.width) == expected.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))
    assert np.abs(read_image(ref).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("talk", "problem"), BAD_TALKS)
def test_llava_conversations_that_are_none_are_named(llava, talk, problem):
    source = llava({"id": "g", "conversations": _talk("Q", "A")}, {"id": "b", "conversations": talk})
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and "llava_v1_5_mix665k.json, entry 1)" in str(caught.value)
    assert (list(source.bad), source.key_of(1), source.skipped) == ([1], "llava/llava_v1_5_mix665k/b", {})


def test_llava_entries_that_do_not_fit_are_named(llava, tmp_path):
    good = {"id": "g", "image": "coco/train2017/1.jpg", "conversations": _talk("Q", "A")}
    alone = {**good, "conversations": _talk("<image>", "A")}
    source = llava(good, "what?", {**good, "image": 7}, alone, {"image": good["image"]}, {**good, "image": "/1.jpg"})
    problems = {1: "expected an object", 2: "'image' must be a path", 3: "the question of turn 1 is empty"}
    problems |= {4: "expected an object with 'conversations'", 5: "the image '/1.jpg' is not in the folder"}
    assert {i: problem in str(source.bad[i]) for i, problem in problems.items()} == dict.fromkeys(problems, True)
    (tmp_path / "coco/train2017/1.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"llava/.*/g: .*1\.jpg: the image's header cannot be read"):
        source[0]
    with pytest.raises(DataError, match="1 of 1 images are missing"):
        llava({**good, "image": "none.jpg"})
    with pytest.raises(DataError, match="expected a list of entries"):
        llava()
