"""OspreySource with whole conversations: several turns, about several regions or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from maskcap.data.rle import decode_mask
from maskcap.data.sample import make_sample
from maskcap.data.sources import OspreySource
from maskcap.data.turns import bad_turns, named_regions
from maskcap.errors import DataError

SHORT = "Answer the question using a single word or phrase."


def _turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def _said(record) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in record.turns]


@pytest.fixture
def entry(box, coco_rle) -> Callable[..., dict]:
    """entry(regions, …): region i is a square at (i, 2·i)."""

    def make(regions: int, **fields) -> dict:
        masks = [coco_rle(box(i, 2 * i, i + 5, 2 * i + 5)) for i in range(regions)]
        annotation = [{"bbox": [0, 0, 5, 5], "segmentation": mask} for mask in masks]
        return {"file_name": "7.jpg", "height": 20, "width": 30, "annotation": annotation, **fields}

    return make


@pytest.fixture
def make(tmp_path, write_image, write_json):
    """make(stem, entries, …) → OspreySource with conversations=True."""
    write_image(tmp_path / "images" / "7.jpg")

    def source(stem: str, *entries: object, **options) -> OspreySource:
        options.setdefault("conversations", True)
        return OspreySource(write_json(tmp_path / f"{stem}.json", list(entries)), tmp_path / "images", **options)

    return source


def test_the_whole_conversation_is_kept(make, entry, box):
    texts = (
        "<image>\nIs <region2> near <region4>?", "Yes, <region2> is beside <region4>.",
        "What is the weather?", "Fine.", "And <region2>?", "A dog.", "Why?",
    )  # fmt: skip
    source = make("osprey_conversation", entry(5, id=3, conversations=_turns(*texts)))
    assert source.has_turns and not source.has_captions and not source.has_phrases
    record = source[0]
    assert record.key == "osprey/osprey_conversation/3"
    assert _said(record) == [
        ("Is <region1> near <region2>?", "Yes, region 1 is beside region 2."),
        ("What is the weather?", "Fine."),
        ("And <region1>?", "A dog."),
    ]
    assert [(r.id, r.captions, r.referring) for r in record.regions1] == [("2", (), False), ("4", (), False)]
    for region, number in zip(record.regions1, (1, 3), strict=True):
        expected = box(number, 2 * number, number + 5, 2 * number + 5)
        np.testing.assert_array_equal(decode_mask(region.mask, 20, 30), expected)
    assert source.skipped == {"turns without an answer": 1, "regions that no turn names": 3}
    sample = make_sample(record, np.random.default_rng(0), image_size=30)
    assert sample["region_ids"] == ["2", "4"] and sample["turns"] == record.turns and sample["caption"] is None


def test_regions_that_only_answers_name_are_shown_first(make, entry):
    texts = ("Which of them bark?", "<region3> and <region1> do.", "What about <region2>?", "No.")
    record = make("osprey_conversation", entry(3, conversations=_turns(*texts)))[0]
    assert _said(record)[0] == (
        "This is about <region1> and <region3>. Which of them bark?",
        "region 3 and region 1 do.",
    )
    assert named_regions(record.turns) == [0, 1, 2] and list(bad_turns(record)) == []


def test_a_conversation_may_be_about_no_region_or_the_only_one(make, entry):
    talk = _turns("What is it?", "A dog.", "Sure?", "Yes.")
    source = make("osprey_conversation", entry(2, conversations=talk), entry(1, conversations=talk))
    assert source[0].regions1 == () and _said(source[0]) == [("What is it?", "A dog."), ("Sure?", "Yes.")]
    assert [region.id for region in source[1].regions1] == ["1"]
    assert _said(source[1]) == [("This is about <region1>. What is it?", "A dog."), ("Sure?", "Yes.")]
    assert source.skipped == {"regions that no turn names": 2}


@pytest.mark.parametrize("stem", ["osprey_short_form", "osprey_part_level", "osprey_lvis_positive_negative"])
def test_other_kinds_ask_as_they_do_alone(make, entry, stem):
    record = make(stem, entry(1, conversations=_turns("What is <region1>? \n<image>", "dog")))[0]
    asked = "What is <region1>?" if "lvis" in stem else f"What is <region1>? {SHORT}"
    assert _said(record) == [(asked, "dog")]


def test_each_description_is_a_turn(make, entry):
    texts = ["<region2>: A red ball near <region1>.", "<region1> The dog."]
    record = make("osprey_detail_description", entry(2, description=texts))[0]
    assert _said(record) == [
        ("Can you provide me with a detailed description of <region2>?", "A red ball near region 1."),
        ("Can you provide me with a detailed description of <region1>?", "The dog."),
    ]
    assert [region.captions for region in record.regions1] == [(), ()]


def test_only_the_image_is_taken_out_of_questions_and_one_tag_of_descriptions(make, entry):
    talk = _turns("<image>\nA <video> of <region1>?", "<region1> is none.", f"<region{'2' * 5000}>?", "No.")
    record = make("osprey_conversation", entry(1, conversations=talk))[0]
    assert _said(record) == [("A <video> of <region1>?", "region 1 is none."), (f"<region{'2' * 5000}>?", "No.")]
    record = make("osprey_detail", entry(1, description=["<region1>: <region1> is a dog."]))[0]
    assert _said(record)[0][1] == "region 1 is a dog."


BAD = [
    (_turns("What is <region3>?", "x"), "the text names region 3, but 'annotation' has 2"),
    (_turns("What?", "see <region0>"), "the text names region 0"),
    (_turns("What?", "x")[::-1], "must go 'human', 'gpt'"),
    (_turns("<image>", "x"), "turn 1 has an empty question or answer"),
    (_turns("What?", "x", "And?", " "), "turn 2 has an empty question or answer"),
]


@pytest.mark.parametrize(("talk", "problem"), BAD)
def test_conversations_that_do_not_fit_are_named(make, entry, talk, problem):
    good = entry(2, conversations=_turns("What?", "x"))
    source = make("osprey_conversation", good, entry(2, id="b", conversations=talk), entry(2, conversations=[]))
    assert list(source.bad) == [1] and len(source) == 2
    assert source.skipped == {"regions that no turn names": 2, "entries left without a turn": 1}
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and "osprey_conversation.json, entry 1)" in str(caught.value)


def test_by_default_nothing_changes(make, entry):
    talk = _turns("Is <region1> near <region2>?", "Yes.", "What is <region1>?", "A dog.")
    source = make("osprey_conversation", entry(2, conversations=talk), conversations=False)
    assert source.has_captions and not source.has_turns
    assert source[0].turns == () and source[0].regions1[0].captions == ("A dog.",)
