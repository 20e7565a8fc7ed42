"""Conversations as LLaVA, VideoChat and Osprey write them: `[{"from": "human", "value": …}, {"from": "gpt", …}, …]`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from maskcap.data.record import Turn
from maskcap.data.sources.files import list_of, require
from maskcap.data.turns import TAG
from maskcap.errors import DataError


def read_pairs(
    entry: dict[str, Any], where: str, skipped: Counter[str], *, may_lead: bool = False
) -> list[tuple[str, str]]:
    """(question, answer) of each turn of `conversations`, as written: human, gpt, human …

    may_lead: leave out gpt messages before the first human one, and count them in `skipped`. A last question without an
    answer is left out and counted. Raises DataError for any other order, and for messages that are no texts.
    """
    messages = list_of(dict, entry.get("conversations"), "'conversations'", where)
    require(all(isinstance(m.get("value"), str) for m in messages), where, "'conversations' must have texts as 'value'")
    while may_lead and messages and messages[0].get("from") == "gpt":
        messages = messages[1:]
        skipped["answers before the first question"] += 1
    order = ["human" if i % 2 == 0 else "gpt" for i in range(len(messages))]
    require(
        [m.get("from") for m in messages] == order, where, "'conversations' must go 'human', 'gpt', 'human', … ('from')"
    )
    if len(messages) % 2:
        skipped["turns without an answer"] += 1
    asked, answered = messages[::2], messages[1::2]
    return [(question["value"], answer["value"]) for question, answer in zip(asked, answered, strict=False)]


def without_placeholder(text: str, placeholders: Sequence[str]) -> str:
    """The text without one of the placeholders at its start, and at its end: a sample shows its pictures before them.

    One within the text, a second one and those of other kinds are words like any other, and stay.
    """
    for name in placeholders:
        text = re.sub(rf"^\s*{re.escape(name)}|{re.escape(name)}\s*$", "", text)
    return text.strip()


def read_turns_about_all(
    entry: dict[str, Any], where: str, skipped: Counter[str], placeholders: Sequence[str] = ()
) -> tuple[Turn, ...]:
    """The whole conversation of an entry, about its image or video (or none: no `placeholders`). Raises DataError.

    placeholders: how a question writes the entry's own picture. `<region1>` in a question names no region of such an
    entry: it becomes the words "region 1", and the question is counted. That there is no turn, or an empty text, is an
    error; what is left out (see `read_pairs`) is counted.
    """
    pairs = read_pairs(entry, where, skipped, may_lead=True)
    require(bool(pairs), where, "the conversation has no question with an answer. Remove the entry", "no turns")
    turns = []
    for number, (question, answer) in enumerate(pairs, 1):
        words, tags = TAG.subn(r"region \1", without_placeholder(question, placeholders))
        skipped.update({"questions whose <regionN> was written in words": 1} if tags else {})
        turn = Turn(words, answer.strip())
        for what, text in (("question", turn.question), ("answer", turn.answer)):
            if not text:
                message = f"{where}: the {what} of turn {number} is empty. Write it, or remove the turn."
                raise DataError(message, "empty caption")
        turns.append(turn)
    return tuple(turns)
