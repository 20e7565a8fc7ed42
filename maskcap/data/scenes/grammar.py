"""The language of the drawn scenes: four attributes, one sentence form, and its inverse."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")

VALUES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "place": PLACES}
CONTENT = ("size", "colour", "shape")  # what an object is; the place is where it stands


def _pattern(values: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(value.replace(" ", r"\s+") for value in longest_first) + r")\b")


_PATTERNS = {name: _pattern(values) for name, values in VALUES.items()}
_PREPOSITION_AND_PLACE = re.compile(r"(?:\b(?:at|in|on)\s+the\s+)?" + _PATTERNS["place"].pattern)


@dataclass(frozen=True)
class Attributes:
    """One object: what it is (size, colour, shape) and the cell of the 3×3 grid it stands in (place)."""

    size: str
    colour: str
    shape: str
    place: str

    def __post_init__(self) -> None:
        for name, values in VALUES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, got {getattr(self, name)!r}")

    @property
    def content(self) -> tuple[str, str, str]:
        """(size, colour, shape): two objects with equal content differ in place only."""
        return (self.size, self.colour, self.shape)

    def with_value(self, attribute: str, value: str) -> Attributes:
        """The same object with one attribute changed."""
        return replace(self, **{attribute: value})


def differing(a: Attributes, b: Attributes) -> tuple[str, ...]:
    """Which of size, colour and shape differ between two objects, in this order."""
    return tuple(name for name in CONTENT if getattr(a, name) != getattr(b, name))


def format_phrase(attributes: Attributes, place: bool = True) -> str:
    """`"large red circle at the top left"`, or without place words `"large red circle"`."""
    content = " ".join(attributes.content)
    return f"{content} {_place_words(attributes.place)}" if place else content


def parse_phrase(text: str) -> dict[str, str]:
    """Attributes found in a sentence, keys among size, colour, shape and place; what is not said is absent.

    Meant for generated text: case, punctuation, order and unknown words don't matter; the first value of each
    attribute counts, and of "top" and "top left" at the same spot the longer.
    """
    lowered = text.lower().replace("centre", "center").replace("-", " ")
    found = {name: pattern.search(lowered) for name, pattern in _PATTERNS.items()}
    return {name: " ".join(match.group(1).split()) for name, match in found.items() if match}


def swap_word(phrase: str, attribute: str, value: str) -> str:
    """The phrase with one attribute's word(s) replaced: `swap_word("large red circle", "colour", "blue")`.

    Raises ValueError when the value is unknown or the phrase says nothing about that attribute.
    """
    if value not in VALUES[attribute]:
        raise ValueError(f"{attribute} must be one of {VALUES[attribute]}, got {value!r}")
    pattern = _PREPOSITION_AND_PLACE if attribute == "place" else _PATTERNS[attribute]
    words = _place_words(value) if attribute == "place" else value
    swapped, count = pattern.subn(words, phrase, count=1)
    if not count:
        raise ValueError(f"{phrase!r} names no {attribute} to replace")
    return swapped


def _place_words(place: str) -> str:
    return "in the center" if place == "center" else f"at the {place}"
