"""OspreySource on entries of every kind of Osprey-724K."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcap.data.rle import decode_mask
from maskcap.data.sources import OspreySource
from maskcap.errors import DataError


def _entry(rle, n_regions: int = 1, **fields) -> dict:
    regions = [{"bbox": [0, 0, 5, 5], "segmentation": rle(i, i)} for i in range(n_regions)]
    return {"file_name": "000000000007.jpg", "height": 20, "width": 30, "annotation": regions, **fields}


def _turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def make(tmp_path, write_image, write_json):
    """make(stem, entries, …) → OspreySource, with one image in train2014 under its long name."""
    write_image(tmp_path / "coco" / "train2014" / "COCO_train2014_000000000007.jpg")

    def source(stem: str, entries: object, **options) -> OspreySource:
        path = write_json(tmp_path / "osprey" / f"{stem}.json", entries)
        return OspreySource(path, tmp_path / "coco", **options)

    return source


def test_conversation_turns_go_to_the_region_they_name(make, rle):
    texts = (
        "<image>\nWhat is <region1>?", "A dog in <region1>.", "And <region2>?", "A ball.",
        "Is <region1> near <region2>?", "Yes.", "What is the weather?", "Fine.", "Colour of <region1>?", "Brown.",
    )  # fmt: skip
    source = make("osprey_conversation", [_entry(rle, 3, id=5, conversations=_turns(*texts))])
    assert (source.name, source.kind, source.has_captions) == ("osprey", "conversation", True)
    assert not source.has_phrases and source.image_of(0) == source[0].image1.path
    dog, ball = source[0].regions1
    assert source[0].key == "osprey/osprey_conversation/5" and (dog.id, ball.id) == ("1", "2")
    assert dog.captions == ("A dog in this region.", "Brown.")
    assert dog.questions == ("What is this region?", "Colour of this region?")
    assert ball.captions == ("A ball.",) and not ball.referring
    assert source.skipped == {
        "turns that name several regions": 1,
        "turns that name no region of several": 1,
        "regions left without an answer": 1,
    }
    assert decode_mask(ball.mask, 20, 30).sum() == 25


def test_short_form_asks_for_a_short_answer_once(make, rle):
    short = "Answer the question using a single word or phrase."
    entries = [
        _entry(rle, conversations=_turns("What is <region1>?", "dog")),
        _entry(rle, conversations=_turns(f"What is it? {short}", "cat")),
    ]
    for stem, kind in (("osprey_short_form", "short_form"), ("osprey_part_level", "part")):
        source = make(stem, entries)
        assert source.kind == kind and [record.key.rpartition("/")[2] for record in source] == ["0", "1"]
        assert source[0].regions1[0].questions == (f"What is this region? {short}",)
        assert source[1].regions1[0].questions == (f"What is it? {short}",)
        assert source[0].regions1[0].captions == ("dog",)
        assert source[0].regions1[0].referring == (kind == "part")  # "dog" may be said of every dog
        assert source.has_phrases == (kind == "part")


def test_descriptions_lose_their_leading_tag(make, rle):
    texts = ["<region2>: A red ball.", "<region1> The dog.", "<region3>: Near <region1>.", "A bone."]
    source = make("some_file", [_entry(rle, 4, description=texts)])
    assert source.kind == "detail"
    assert [(r.id, r.captions, r.questions, r.referring) for r in source[0].regions1] == [
        ("1", ("The dog.",), (), True),
        ("2", ("A red ball.",), (), True),
        ("4", ("A bone.",), (), True),
    ]
    assert source.skipped == {"descriptions that name several regions": 1, "regions left without an answer": 1}


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("<region1>: <region1> is a dog", "this region is a dog"),
        ("<region1> <region1>: a dog", "this region: a dog"),
        (" <region1>:a dog <region1>. ", "a dog this region."),
        ("a dog, <region1>", "a dog, this region"),
        (f"<region{'1' * 5000}> is a dog", f"<region{'1' * 5000}> is a dog"),
    ],
)
def test_a_description_loses_one_leading_tag_alone(make, rle, text, caption):
    assert make("detail", [_entry(rle, description=[text])])[0].regions1[0].captions == (caption,)


def test_an_answer_loses_one_leading_tag_and_a_question_its_image_alone(make, rle):
    texts = ("<image>\nIs <video> a tag of <region1>?", "<region1>: <region1> is one.")
    (region,) = make("osprey_conversation", [_entry(rle, conversations=_turns(*texts))])[0].regions1
    assert (region.questions, region.captions) == (("Is <video> a tag of this region?",), ("this region is one.",))


def test_lvis_yes_and_no_is_not_referring(make, rle):
    source = make("osprey_lvis_positive_negative", [_entry(rle, conversations=_turns("Is <region1> a dog?", "No."))])
    assert source.kind == "lvis" and not source[0].regions1[0].referring
    assert source[0].regions1[0].questions == ("Is this region a dog?",)


def test_entries_without_a_usable_turn_are_counted_and_repeated_ids_stay_unique(make, rle):
    turns = _turns("What?", "A dog.")
    entries = [_entry(rle, id="a", conversations=turns) for _ in range(3)]
    entries += [_entry(rle, conversations=[]), _entry(rle, conversations=turns[:1])]
    source = make("chat", entries)
    assert [record.key for record in source] == ["osprey/chat/a", "osprey/chat/a#2", "osprey/chat/a#3"]
    expected = {"entries left without a region": 2, "regions left without an answer": 2, "turns without an answer": 1}
    assert source.skipped == expected
    with pytest.raises(DataError, match="none of 2 entries has a usable answer"):
        make("chat", entries[3:])


@pytest.mark.parametrize("name", ["000000000007.jpg", "COCO_train2014_000000000007.jpg", "train2017/000000000007.jpg"])
@pytest.mark.parametrize(
    "place", ["000000000007.jpg", "val2017/000000000007.jpg", "val2014/COCO_val2014_000000000007.jpg"]
)
def test_images_are_found_under_either_name(tmp_path, write_image, write_json, rle, name, place):
    image = write_image(tmp_path / "images" / place)
    entry = {**_entry(rle, description=["<region1>: x"]), "file_name": name}
    path = write_json(tmp_path / "detail.json", [entry])
    (tmp_path / "other").mkdir()
    assert OspreySource(path, [tmp_path / "other", tmp_path / "images"])[0].image1.path == image


def test_missing_images_are_named_and_counted(make, rle):
    entries = [{**_entry(rle, description=["x"]), "file_name": f"{i}.jpg"} for i in range(5)]
    with pytest.raises(
        DataError, match=r"5 of 5 images are missing: 0\.jpg, 1\.jpg, 2\.jpg … \(5 in all\)\. Looked in"
    ):
        make("detail", entries)


BAD = [
    ({"conversations": _turns("What is <region2>?", "x")}, "the text names region 2, but 'annotation' has 1"),
    ({"conversations": _turns("What?", " ")}, "an answer or description is empty"),
    ({"conversations": list(reversed(_turns("What?", "x")))}, "must go 'human', 'gpt'"),
    ({"conversations": [{"from": "human"}]}, "must have texts as 'value'"),
    ({"conversations": "What?"}, "must be a list of objects"),
    ({"description": [7]}, "'description' must be a list of texts"),
    ({"description": ["<region1>: "]}, "an answer or description is empty"),
    ({"description": ["x"], "annotation": [{"bbox": []}]}, "region 1: expected an object with 'segmentation'"),
    ({"description": ["x"], "height": 20.5}, "'height' must be a whole number"),
    ({"description": ["x"], "file_name": None}, "'file_name'"),
]


@pytest.mark.parametrize(("fields", "problem"), BAD)
def test_malformed_entries_are_errors_that_name_file_and_entry(make, rle, fields, problem):
    with pytest.raises(DataError) as caught:
        make("broken", [{**_entry(rle), **fields}])
    assert problem in str(caught.value) and str(Path("osprey") / "broken.json") in str(caught.value)


@pytest.mark.parametrize(("fields", "problem"), BAD)
def test_one_malformed_entry_is_an_error_of_its_record_alone(make, rle, fields, problem):
    good = {"description": ["<region1>: A dog."], "conversations": _turns("What?", "A dog.", "And?")}
    source = make("broken", [{**_entry(rle), **good}, {**_entry(rle, id="b"), **fields}], kind=_kind(fields))
    assert source[0].regions1[0].captions == ("A dog.",)
    with pytest.raises(DataError) as caught:
        source[1]
    assert problem in str(caught.value) and "broken.json, entry 1)" in str(caught.value)
    assert caught.value.reason == ("empty caption" if "is empty" in problem else "malformed record")
    assert (list(source.bad), source.key_of(1)) == ([1], "osprey/broken/b") and source.text_size_of(1) is None
    assert source.image_of(1) != source.image_of(0) and source.text_size_of(0) == (1, 6)
    assert source.skipped == ({} if _kind(fields) == "detail" else {"turns without an answer": 1})  # of the good entry


def _kind(fields: dict) -> str:
    return "detail" if "description" in fields else "conversation"


def test_entries_that_are_no_objects_and_missing_images_are_bad_records(make, rle):
    lost = {**_entry(rle, description=["x"], id=7), "file_name": "9.jpg"}
    source = make("detail", [_entry(rle, description=["x"]), "what?", lost])
    assert {i: error.reason for i, error in source.bad.items()} == {1: "malformed record", 2: "missing file"}
    assert [source.key_of(i) for i in range(3)] == ["osprey/detail/0", "osprey/detail/1", "osprey/detail/7"]
    with pytest.raises(DataError, match=r"osprey/detail/7 .*the image 9\.jpg is missing\. Looked in"):
        source[2]
    assert source.annotation_of(2).endswith("detail.json")


def test_what_kind_it_is_must_be_known(make, rle):
    with pytest.raises(DataError, match="Set kind to one of conversation, short_form"):
        make("mystery", [_entry(rle)])
    with pytest.raises(DataError, match="unknown kind 'chat'"):
        make("mystery", [_entry(rle)], kind="chat")
    with pytest.raises(DataError, match="not empty"):
        make("conversation", [])
