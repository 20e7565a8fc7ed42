"""GCG of RefCOCOg: phrases are found in the captions."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.data.sources import GCGRefCOCOgSource
from maskcap.errors import DataError

CAPTION = "A man with a red hat holds a Dog, and the man with a stick looks on."


def _polygon(top: int, left: int, bottom: int, right: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


@pytest.fixture
def refcocog(tmp_path, write_image, write_json):
    """refcocog([refs of entry 0, …]) → source; the image is under its long name."""
    write_image(tmp_path / "coco" / "train2014" / "COCO_train2014_000000000007.jpg")

    def make(*entries: object, caption: str = CAPTION, **options) -> GCGRefCOCOgSource:
        listed = [
            {str(100 + i): {"img_file_name": "COCO_train2014_000000000007.jpg", "caption": caption, "refs": refs}}
            if isinstance(refs, list)
            else refs
            for i, refs in enumerate(entries)
        ]
        path = write_json(tmp_path / "RefCOCOg_GCG_train.json", listed)
        return GCGRefCOCOgSource(path, tmp_path / "coco", **options)

    return make


def _ref(sentence: object, *boxes: tuple[int, int, int, int]) -> dict:
    return {"sentence": sentence, "segmentation": [_polygon(*each) for each in boxes], "bbox": [0, 0, 1, 1]}


def test_refcocog_phrases_are_found_in_the_caption(refcocog, box, coco_rle, spans_of, masks_of):
    dog, man, stick = (3, 4, 9, 12), (0, 0, 8, 8), (10, 14, 18, 25)
    rle = {"sentence": "The Man With a Stick", "segmentation": coco_rle(box(*stick))}
    source = refcocog(
        [rle, _ref("a dog", dog, (12, 1, 15, 9)), _ref("a man with a red hat", man)], [_ref("a man", man)]
    )
    assert (source.name, len(source), source.skipped, dict(source.bad)) == ("gcg_refcocog", 2, {}, {})
    assert source.has_turns and not source.has_captions and not source.has_phrases
    record = source[0]
    assert record.key == source.key_of(0) == "gcg_refcocog/RefCOCOg_GCG_train/100"
    assert (record.image1.height, record.image1.width) == (20, 30)
    assert record.image1.path == source.image_of(0) == source.image_of(1)
    (turn,) = record.turns
    assert turn.answer == CAPTION and "interleaved segmentation masks" in turn.question
    assert spans_of(record) == ["A man with a red hat", "a Dog", "the man with a stick"]
    expected = [box(*man), box(*dog) | box(12, 1, 15, 9), box(*stick)]
    for mask, drawn in zip(masks_of(record), expected, strict=True):
        np.testing.assert_array_equal(mask, drawn)
    assert [region.id for region in record.regions1] == ["1", "2", "3"]
    assert all(region.captions == () for region in record.regions1)
    assert source.text_size_of(0) == (3, len(turn.question) + len(CAPTION))


def test_refcocog_words_are_preferred_to_parts_of_words(refcocog, spans_of):
    source = refcocog(
        [_ref("man", (0, 0, 5, 5)), _ref("tick", (5, 5, 9, 9))], caption="A woman, then a man at a sticker"
    )
    assert spans_of(source[0]) == ["man", "tick"]
    assert source[0].turns[0].phrases[0].start == len("A woman, then a ")


def test_refcocog_one_place_is_one_phrase_and_overlaps_are_cut_and_counted(refcocog, box, spans_of, masks_of):
    refs = [
        _ref("a man with a red hat", (0, 0, 8, 8)),
        _ref("a red hat", (0, 0, 3, 5)),
        _ref("a", (15, 15, 16, 16)),
        _ref("a dog", (3, 4, 9, 12)),
        _ref("A dog", (7, 8, 15, 20)),
    ]
    source = refcocog(refs, caption='"A man with a red hat holds a dog."')
    record = source[0]
    assert record.turns[0].answer == "A man with a red hat holds a dog."
    assert spans_of(record) == ["A man with", "a red hat", "a dog"]
    np.testing.assert_array_equal(masks_of(record)[2], box(3, 4, 9, 12) | box(7, 8, 15, 20))
    assert source.skipped == {
        "phrases cut where the next one begins": 1,
        "phrases within another one": 1,
        "phrases united at one place": 1,
    }


def test_refcocog_a_sentence_that_comes_again_is_at_its_next_place(refcocog, box, spans_of, masks_of):
    first, second, third = (0, 0, 8, 8), (10, 14, 18, 25), (2, 20, 6, 28)
    refs = [_ref("man", first), _ref("Man", second)]
    source = refcocog(refs, [*refs, _ref("man", third)], caption="man next to man, no woman")
    assert spans_of(source[0]) == spans_of(source[1]) == ["man", "man"]
    assert [phrase.start for phrase in source[0].turns[0].phrases] == [0, len("man next to ")]
    assert [mask.tolist() for mask in masks_of(source[0])] == [box(*first).tolist(), box(*second).tolist()]
    # Two places for three: the last one shares.
    assert np.array_equal(masks_of(source[1]), [box(*first), box(*second) | box(*third)])
    assert source.skipped == {"phrases united at one place": 1}


def test_refcocog_what_does_not_fit_is_named(refcocog, tmp_path, spans_of):
    good = [_ref("a dog", (3, 4, 9, 12))]
    entries = [
        good,
        [_ref("a cat", (3, 4, 9, 12))],
        [_ref("a dog")],
        [_ref(" ", (3, 4, 9, 12))],
        {"1": {"img_file_name": "gone.jpg", "caption": CAPTION, "refs": good}},
        {"1": {"img_file_name": "gone.jpg", "caption": CAPTION}},
        {"a": {}, "b": {}},
        [],
        {"1": {"img_file_name": "x.jpg", "caption": CAPTION, "refs": [{"sentence": "a dog", "segmentation": 7}]}},
        None,
    ]
    source = refcocog(*entries)
    problems = {
        1: "the phrase 'a cat' is not in the caption",
        2: "the phrase 'a Dog' has no mask",
        3: "a ref has no 'sentence'",
        4: "the image gone.jpg is missing",
        5: "'refs' must be a list",
        6: "one key",
        7: "must be polygons or an RLE",
        8: "expected an object with one key",
    }
    assert sorted(source.bad) == sorted(problems)
    for index, problem in problems.items():
        with pytest.raises(DataError) as caught:
            source[index]
        entry = index if index < 7 else index + 1
        assert problem in str(caught.value) and f"RefCOCOg_GCG_train.json, entry {entry})" in str(caught.value)
    assert source.skipped == {"images without a phrase that has a mask": 1} and len(source) == 9
    assert source.key_of(5) == "gcg_refcocog/RefCOCOg_GCG_train/1#2" and source.text_size_of(5) is None
    dropped = refcocog(good, [_ref("a cat", (3, 4, 9, 12)), *good], drop_unmatched=True)
    assert not dropped.bad and dropped.skipped == {"refs whose sentence is not in the caption": 1}
    assert spans_of(dropped[1]) == ["a Dog"]
    with pytest.raises(DataError, match="none of 1 entries has a phrase"):
        refcocog([])
    lost = tmp_path / "coco" / "train2014" / "COCO_train2014_000000000007.jpg"
    source = refcocog(good)
    lost.write_bytes(b"no image")
    with pytest.raises(DataError, match="gcg_refcocog/.*/100: .*0007.jpg: the image's header cannot be read"):
        source[0]
