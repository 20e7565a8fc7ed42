"""What a sample of Sa2VA's training code says: a record's turns, its drawn regions' phrases and descriptions.

Regions are numbered here as in the record, from 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskcap.data.choices import Texts
from maskcap.data.record import Record, Turn
from maskcap.data.sa2va.options import Sa2VAOptions
from maskcap.data.sa2va.tokens import IMAGE_CLOSE, IMAGE_OPEN, Exchange, Text
from maskcap.data.turns import grounded_regions, named_regions, replace_tags
from maskcap.models.conversation import (
    IMAGE_SLOT,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    REGION_CLOSE,
    REGION_OPEN,
    SEG,
    Words,
    fill,
)

_THIS_REGION = re.compile(r"\bthis region\b", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What is to be said. marked: regions whose tokens the first question shows, ascending; described: those of them
    that a caption describes; segmented: regions that a phrase asks for, in the order of the questions."""

    marked: tuple[int, ...]
    described: tuple[int, ...]
    segmented: tuple[int, ...]


def plan(record: Record, texts: Mapping[int, Texts], seen: Sequence[int], options: Sa2VAOptions) -> Plan:
    """texts: of the drawn regions. seen: those of them that have a pixel where regions are marked; what is not to be
    seen is not described."""
    source = record.key.split("/", 1)[0]
    named = named_regions(record.turns)
    told = [region for region, text in texts.items() if text.caption is not None]
    segmented = tuple(region for region in told if texts[region].phrase is not None and source not in options.describe)
    described = tuple(region for region in told if region not in segmented and region in seen)
    return Plan(tuple(sorted({*named, *described})), described, segmented)


def exchanges(
    record: Record,
    texts: Mapping[int, Texts],
    what: Plan,
    views: str,
    cells: Sequence[int],
    options: Sa2VAOptions,
    rng: np.random.Generator,
) -> list[Exchange]:
    """The conversation: the record's turns, then the descriptions, then the phrases.

    views: text of the images (see `image_text`). cells: how many tokens each marked region has. rng draws questions
    and answers where there are several.
    """
    places = {region: f"region{place + 1}" for place, region in enumerate(what.marked)}
    found = [_of_turn(turn, places) for turn in record.turns]
    found += [_describe(places[region], texts[region], len(places), options, rng) for region in what.described]
    found += [_segment(texts[region].phrase or "", bool(record.frames), options, rng) for region in what.segmented]
    if not found:
        return []
    first = Exchange((views + _marked(cells), *found[0].question), found[0].answer)
    return [first, *found[1:]]


def grounded(record: Record, what: Plan) -> list[int]:
    """The region of each [SEG] of the conversation, in order."""
    return grounded_regions(record.turns) + list(what.segmented)


def image_text(rows: int, is_video: bool, options: Sa2VAOptions) -> str:
    """The images' tokens: one pair of tags around all tiles of an image, or around each frame of a video.

    A new line stands before the question, but not behind a video. rows: of `pixel_values`; 0: no image, no text.
    """
    slots = IMAGE_SLOT * options.grid**2
    if is_video:
        return "\n".join([f"{IMAGE_OPEN}{slots}{IMAGE_CLOSE}"] * rows)
    return f"{IMAGE_OPEN}{slots * rows}{IMAGE_CLOSE}\n" if rows else ""


def _marked(cells: Sequence[int]) -> str:
    regions = [f"region{i}{REGION_OPEN}{IMAGE_SLOT * size}{REGION_CLOSE}" for i, size in enumerate(cells, 1)]
    return f"There are {len(regions)} part regions in the picture: {', '.join(regions)}.\n" if regions else ""


def _of_turn(turn: Turn, places: Mapping[int, str]) -> Exchange:
    question = replace_tags(turn.question, lambda region: places[region]).strip()
    answer: list[Text] = []
    end = 0
    for phrase in turn.phrases:
        said = turn.answer[phrase.start : phrase.end]
        answer += [Words(turn.answer[end : phrase.start]), PHRASE_OPEN, Words(f" {said} "), f"{PHRASE_CLOSE} {SEG}"]
        end = phrase.end
    answer.append(Words(turn.answer[end:] if turn.phrases else turn.answer.strip()))
    return Exchange((Words(question),), tuple(answer))


def _describe(place: str, text: Texts, count: int, options: Sa2VAOptions, rng: np.random.Generator) -> Exchange:
    question = text.question
    if question is None:
        question = _draw(options.describe_questions, rng).replace("{region}", place)
    elif _THIS_REGION.search(question):
        question = _THIS_REGION.sub(place, question)
    elif count > 1:  # several are marked, and it does not say which
        question = f"{place}: {question}"
    return Exchange((Words(question.strip()),), (Words((text.caption or "").strip()),))


def _segment(phrase: str, is_video: bool, options: Sa2VAOptions, rng: np.random.Generator) -> Exchange:
    template, answer = _draw(options.questions, rng), _draw(options.answers, rng)
    if is_video and "?" in phrase:  # a video's expression may be the question itself
        return Exchange((Words(phrase.strip()),), (answer,))
    return Exchange(tuple(fill(template, phrase=phrase.strip().removesuffix("."))), (answer,))


def _draw(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[0] if len(texts) == 1 else texts[int(rng.integers(len(texts)))]
