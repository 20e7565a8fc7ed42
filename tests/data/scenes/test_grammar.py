from __future__ import annotations

from itertools import product

import pytest

from maskcap.data.scenes import COLOURS, PLACES, SHAPES, SIZES, Attributes, format_phrase, parse_phrase, swap_word
from maskcap.data.scenes.grammar import differing

ALL = [Attributes(*values) for values in product(SIZES, COLOURS, SHAPES, PLACES)]


def test_phrases_read_as_agreed():
    assert (
        format_phrase(Attributes("large", "red", "circle", "top left"), place=True)
        == "large red circle at the top left"
    )
    assert format_phrase(Attributes("small", "blue", "cross", "center"), place=True) == "small blue cross in the center"
    assert format_phrase(Attributes("small", "blue", "cross", "center"), place=False) == "small blue cross"


def test_parse_inverts_format_for_every_object():
    for item in ALL:
        content = {"size": item.size, "colour": item.colour, "shape": item.shape}
        assert parse_phrase(format_phrase(item, place=False)) == content
        assert parse_phrase(format_phrase(item, place=True)) == {**content, "place": item.place}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("the the dog", {}),
        ("A LARGE, Orange thing.", {"size": "large", "colour": "orange"}),
        (
            "circle red circle square at the bottom  right",
            {"colour": "red", "shape": "circle", "place": "bottom right"},
        ),
        ("cross in the centre", {"shape": "cross", "place": "center"}),
        ("square, top-left", {"shape": "square", "place": "top left"}),
        ("infrared circles crossing", {}),
        ("at the left at the top", {"place": "left"}),
    ],
)
def test_parse_takes_generated_text_as_it_comes(text: str, found: dict[str, str]):
    assert parse_phrase(text) == found


def test_swap_replaces_one_word_and_nothing_else():
    phrase = "large red circle at the top left"
    assert swap_word(phrase, "size", "small") == "small red circle at the top left"
    assert swap_word(phrase, "colour", "blue") == "large blue circle at the top left"
    assert swap_word(phrase, "shape", "cross") == "large red cross at the top left"
    assert swap_word(phrase, "place", "center") == "large red circle in the center"
    assert swap_word("small blue cross in the center", "place", "right") == "small blue cross at the right"


def test_swap_agrees_with_format_for_every_pair_of_places():
    item = ALL[0]
    for old, new in product(PLACES, PLACES):
        phrase = format_phrase(item.with_value("place", old), place=True)
        assert swap_word(phrase, "place", new) == format_phrase(item.with_value("place", new), place=True)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="names no place"):
        swap_word("large red circle", "place", "top")
    with pytest.raises(ValueError, match="colour must be one of"):
        swap_word("large red circle", "colour", "pink")
    with pytest.raises(ValueError, match="shape must be one of"):
        Attributes("large", "red", "star", "top")


def test_differing_ignores_place():
    a = Attributes("large", "red", "circle", "top")
    assert differing(a, a.with_value("place", "left")) == ()
    assert differing(a, Attributes("small", "red", "cross", "top")) == ("size", "shape")
