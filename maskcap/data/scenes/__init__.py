"""Drawn scenes in the real data sets' layouts: the embedded default that needs no download."""

from maskcap.data.scenes.grammar import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Attributes,
    format_phrase,
    parse_phrase,
    swap_word,
)
from maskcap.data.scenes.make import make_scenes

__all__ = [
    "COLOURS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "Attributes",
    "format_phrase",
    "make_scenes",
    "parse_phrase",
    "swap_word",
]
