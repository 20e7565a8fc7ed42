"""Osprey's entries as whole conversations: several turns about one region, several or none."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from maskcap.data.record import Turn
from maskcap.data.sources.conversations import read_pairs
from maskcap.data.sources.osprey_text import ask_short, check_numbers, descriptions, without_image
from maskcap.data.turns import TAG
from maskcap.errors import DataError

DESCRIBE = "Can you provide me with a detailed description of <region{}>?"


def read_dialogue(
    entry: dict[str, Any], n_regions: int, kind: str, where: str, skipped: Counter[str]
) -> tuple[tuple[Turn, ...], list[int]]:
    """(turns, regions that they are about as numbers in the entry, from 1, ascending).

    In the turns these regions are numbered from 1: `<region2>` in a question is the second of them, and "region 2" in
    an answer. One that only answers name is told of before the first question, since a question is what shows a region.
    The only region of an entry is what its turns are about if they name none. Descriptions become one turn a region.
    What is left out is counted in `skipped`; raises DataError.
    """
    if kind == "detail":
        pairs = [(DESCRIBE.format(number), text) for number, text in descriptions(entry, where)]
    else:
        read = read_pairs(entry, where, skipped)
        pairs = [(ask_short(without_image(question), kind), answer) for question, answer in read]
    asked = {int(number) for question, _ in pairs for number in TAG.findall(question)}
    named = sorted({*asked, *(int(number) for _, answer in pairs for number in TAG.findall(answer))})
    check_numbers(named, n_regions, where)
    if pairs and not named and n_regions == 1:
        named = [1]
    if pairs and len(named) < n_regions:
        skipped["regions that no turn names"] += n_regions - len(named)
    place = {number: str(i) for i, number in enumerate(named, 1)}
    turns = [
        Turn(_tagged(question, place, "<region{}>"), _tagged(answer, place, "region {}")) for question, answer in pairs
    ]
    for number, turn in enumerate(turns, 1):
        if not turn.question or not turn.answer:
            message = f"{where}: turn {number} has an empty question or answer. Write it, or remove the turn."
            raise DataError(message, "empty caption")
    unasked = [f"<region{place[number]}>" for number in named if number not in asked]
    if unasked:
        turns[0] = replace(turns[0], question=f"This is about {_listed(unasked)}. {turns[0].question}")
    return tuple(turns), named


def _tagged(text: str, place: dict[int, str], form: str) -> str:
    return re.sub(TAG, lambda tag: form.format(place[int(tag[1])]), text).strip()


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
