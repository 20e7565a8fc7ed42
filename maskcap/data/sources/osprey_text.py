"""The text of Osprey's entries: which region each turn is about, and its words without region tags."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from maskcap.data.sources.files import list_of, require
from maskcap.errors import DataError

SHORT_ANSWER = "Answer the question using a single word or phrase."
_TAG = re.compile(r"<region(\d+)>")
_LEADING_TAG = re.compile(r"\s*<region(\d+)>\s*:?\s*")


@dataclass(frozen=True)
class Turn:
    """What was asked about one region (None: nothing in particular) and the answer."""

    question: str | None
    answer: str


def read_turns(entry: dict[str, Any], n_regions: int, kind: str, where: str, skipped: Counter[str]) -> list[list[Turn]]:
    """Turns of each region from `conversations`: human, gpt, human … `skipped` counts what is no region's alone."""
    messages = list_of(dict, entry.get("conversations"), "'conversations'", where)
    require(all(isinstance(m.get("value"), str) for m in messages), where, "'conversations' must have texts as 'value'")
    order = ["human" if i % 2 == 0 else "gpt" for i in range(len(messages))]
    require(
        [m.get("from") for m in messages] == order, where, "'conversations' must go 'human', 'gpt', 'human', … ('from')"
    )
    turns: list[list[Turn]] = [[] for _ in range(n_regions)]
    if len(messages) % 2:
        skipped["turns without an answer"] += 1
    for asked, answered in zip(messages[::2], messages[1::2], strict=False):
        question, answer = asked["value"], answered["value"]
        named = sorted({int(number) for text in (question, answer) for number in _TAG.findall(text)})
        _check_numbers(named, n_regions, where)
        if not named and n_regions == 1:
            named = [1]
        if len(named) != 1:
            skipped["turns that name several regions" if named else "turns that name no region of several"] += 1
            continue
        turns[named[0] - 1].append(Turn(_question(question, kind), _answer(answer, where)))
    return turns


def read_descriptions(
    entry: dict[str, Any], n_regions: int, kind: str, where: str, skipped: Counter[str]
) -> list[list[Turn]]:
    """Turns of each region from `description`: "<region2>: text", or in the regions' order where no tag leads."""
    texts = entry.get("description")
    texts = list_of(str, [texts] if isinstance(texts, str) else texts, "'description'", where)
    turns: list[list[Turn]] = [[] for _ in range(n_regions)]
    for i, text in enumerate(texts):
        tag = _LEADING_TAG.match(text)
        number = int(tag[1]) if tag else i + 1
        named = sorted({number, *(int(other) for other in _TAG.findall(text))})
        _check_numbers(named, n_regions, where)
        if len(named) > 1:
            skipped["descriptions that name several regions"] += 1
            continue
        turns[number - 1].append(Turn(None, _answer(text, where)))
    return turns


def _check_numbers(named: list[int], n_regions: int, where: str) -> None:
    wrong = [number for number in named if not 1 <= number <= n_regions]
    require(not wrong, where, f"the text names region {', '.join(map(str, wrong))}, but 'annotation' has {n_regions}")


def _question(text: str, kind: str) -> str:
    question = _TAG.sub("this region", text.replace("<image>", "")).strip()
    if kind in ("short_form", "part") and SHORT_ANSWER not in question:
        question = f"{question} {SHORT_ANSWER}"
    return question


def _answer(text: str, where: str) -> str:
    answer = _TAG.sub("this region", _LEADING_TAG.sub("", text, count=1) if _LEADING_TAG.match(text) else text).strip()
    if not answer:
        raise DataError(f"{where}: an answer or description is empty. Remove it, or write it.", "empty caption")
    return answer
