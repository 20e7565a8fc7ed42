"""Which regions turns name, and what is wrong with turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maskcap.data.record import Phrase, Record, Turn
from maskcap.data.record_rules import missing_parts
from maskcap.data.turns import bad_turns, grounded_regions, named_regions, renumber, replace_tags

TURNS = (
    Turn("Is <region3> left of <region1>?", "Yes."),
    Turn("Describe.", "A cat and a dog", (Phrase(0, 5, 1), Phrase(10, 15, 0))),
)


@pytest.fixture
def record(image_ref, region) -> Record:
    """Three regions and two turns."""
    return Record("tiny/train/1", image_ref("a"), tuple(region(n) for n in range(3)), turns=TURNS)


def test_regions_by_questions_and_by_segs():
    """Tags count from 1, indices from 0; the answers' regions come in the order of their [SEG]s."""
    assert named_regions(TURNS) == [0, 2]
    assert grounded_regions(TURNS) == [1, 0]
    assert replace_tags("<region12> and <region1>", lambda region: f"number {region}") == "number 11 and number 0"


def test_renumbering_moves_tags_and_phrases():
    """The words stay; both kinds of numbers follow the regions' new places."""
    moved = renumber(TURNS, {0: 2, 1: 0, 2: 1})
    assert moved[0].question == "Is <region2> left of <region3>?"
    assert [phrase.region for phrase in moved[1].phrases] == [0, 2]
    assert [turn.answer for turn in moved] == [turn.answer for turn in TURNS]


def test_good_turns_have_no_problem(record):
    """Nothing to say of a record whose turns fit."""
    assert list(bad_turns(record)) == []


def test_tags_of_thousands_of_digits_are_words():
    """Python refuses to read such numbers; up to six digits name a region."""
    long = f"<region{'9' * 5000}> and <region1234567>"
    assert named_regions((Turn(f"{long} and <region999999>", "yes"),)) == [999_998]
    assert replace_tags(long, str) == long


@pytest.mark.parametrize(
    ("turn", "message", "reason"),
    [
        (Turn(" ", "yes"), "turn 1: the question is empty", "empty caption"),
        (Turn("Where?", ""), "turn 1: the answer is empty", "empty caption"),
        (Turn("<region4>?", "yes"), "names region 4, and the record has 3", "unknown region"),
        (Turn("<region0>?", "yes"), "names region 0, and the record has 3", "unknown region"),
        (Turn("What?", "a cat", (Phrase(2, 9, 0),)), "characters 2 to 9 is no part of the answer", "bad phrase"),
        (Turn("What?", "a cat", (Phrase(3, 3, 0),)), "characters 3 to 3 is no part", "bad phrase"),
        (Turn("What?", "a cat", (Phrase(2, 5, 0), Phrase(0, 1, 1))), "characters 0 to 1 overlaps", "bad phrase"),
        (Turn("What?", "a cat", (Phrase(0, 4, 0), Phrase(2, 5, 1))), "characters 2 to 5 overlaps", "bad phrase"),
        (Turn("What?", "a cat", (Phrase(0, 5, 3),)), "has the mask of region 4, and the record", "unknown region"),
    ],
)
def test_bad_turns_are_named(record, turn, message, reason):
    """The record's key, the turn's number and what is wrong."""
    (problem,) = bad_turns(replace(record, turns=(turn,)))
    assert "tiny/train/1, turn 1" in str(problem) and message in str(problem)
    assert problem.reason == reason


def test_a_conversation_needs_no_region_and_no_image(record):
    """But regions need an image, and a video's regions a mask in each frame."""
    alone = replace(record, image1=None, regions1=(), turns=(Turn("Why?", "Because."),))
    assert list(missing_parts(alone)) == []
    assert "needs an image1" in str(next(missing_parts(replace(record, image1=None))))
    video = replace(record, frames=(record.image1, record.image1))
    assert "masks of 0 frames, and the video 2" in str(next(missing_parts(video)))
