"""The text of Osprey's entries: which region each turn is about, and its words without region tags."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from maskcap.data.sources.conversations import read_pairs
from maskcap.data.sources.files import list_of, require
from maskcap.data.turns import TAG
from maskcap.errors import DataError

SHORT_ANSWER = "Answer the question using a single word or phrase."
_LEADING_TAG = re.compile(rf"\s*{TAG.pattern}\s*:?\s*")


@dataclass(frozen=True)
class Said:
    """What was asked about one region (None: nothing in particular) and the answer."""

    question: str | None
    answer: str


def read_turns(entry: dict[str, Any], n_regions: int, kind: str, where: str, skipped: Counter[str]) -> list[list[Said]]:
    """Turns of each region from `conversations`: human, gpt, human … `skipped` counts what is no region's alone."""
    turns: list[list[Said]] = [[] for _ in range(n_regions)]
    for question, answer in read_pairs(entry, where, skipped):
        named = sorted({int(number) for text in (question, answer) for number in TAG.findall(text)})
        check_numbers(named, n_regions, where)
        if not named and n_regions == 1:
            named = [1]
        if len(named) != 1:
            skipped["turns that name several regions" if named else "turns that name no region of several"] += 1
            continue
        asked = ask_short(TAG.sub("this region", without_image(question)), kind)
        turns[named[0] - 1].append(Said(asked, _answer(_without_leading(answer), where)))
    return turns


def read_descriptions(
    entry: dict[str, Any], n_regions: int, kind: str, where: str, skipped: Counter[str]
) -> list[list[Said]]:
    """Turns of each region from `description`; `skipped` counts what is no region's alone."""
    turns: list[list[Said]] = [[] for _ in range(n_regions)]
    for number, text in descriptions(entry, where):
        named = sorted({number, *(int(other) for other in TAG.findall(text))})
        check_numbers(named, n_regions, where)
        if len(named) > 1:
            skipped["descriptions that name several regions"] += 1
            continue
        turns[number - 1].append(Said(None, _answer(text, where)))
    return turns


def descriptions(entry: dict[str, Any], where: str) -> list[tuple[int, str]]:
    """(region's number from 1, text without its leading tag) of each `description`: "<region2>: text".

    Where no tag leads, they are in the regions' order. Raises DataError.
    """
    texts = entry.get("description")
    texts = list_of(str, [texts] if isinstance(texts, str) else texts, "'description'", where)
    tags = [_LEADING_TAG.match(text) for text in texts]
    return [
        (int(tag[1]), text[tag.end() :]) if tag else (number, text)
        for number, (tag, text) in enumerate(zip(tags, texts, strict=True), 1)
    ]


def check_numbers(named: list[int], n_regions: int, where: str) -> None:
    """Raise DataError, with their numbers, where a text names regions that the entry does not have."""
    wrong = [number for number in named if not 1 <= number <= n_regions]
    require(not wrong, where, f"the text names region {', '.join(map(str, wrong))}, but 'annotation' has {n_regions}")


def without_image(question: str) -> str:
    """The question without its `<image>`, the entry's own; whatever else it has in angle brackets is its text."""
    return question.replace("<image>", "").strip()


def ask_short(question: str, kind: str) -> str:
    """The question with upstream's demand for a short answer, where its kind has one and it is missing."""
    return f"{question} {SHORT_ANSWER}" if kind in ("short_form", "part") and SHORT_ANSWER not in question else question


def _without_leading(text: str) -> str:
    tag = _LEADING_TAG.match(text)
    return text[tag.end() :] if tag else text


def _answer(text: str, where: str) -> str:
    answer = TAG.sub("this region", text).strip()
    if not answer:
        raise DataError(f"{where}: an answer or description is empty. Remove it, or write it.", "empty caption")
    return answer
