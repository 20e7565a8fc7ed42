"""Conversations of several turns: their segments, and what a grounded answer says.

In a grounded answer each phrase stands as `<p> phrase </p> [SEG]`; the state at the k-th [SEG] gives its k-th mask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from maskcap.data.record import Turn
from maskcap.data.turns import named_regions, replace_tags
from maskcap.models.conversation import PHRASE_CLOSE, PHRASE_OPEN, SEG, Conversation, Prompt, Tokens
from maskcap.models.segments import Exchange, Questions, Segment

_PHRASE = re.compile(rf"{PHRASE_OPEN}((?:(?!{PHRASE_OPEN}).)*){PHRASE_CLOSE}\s*\Z", re.DOTALL)


def dialogue_segment(
    conversation: Conversation,
    turns: Sequence[Turn],
    image: int,
    shown: Sequence[int],
    keep_image: bool = True,
    name: str = "",
    *,
    open_last: bool = False,
) -> Segment:
    """One conversation behind prefix `image`; arguments as in `Asking.dialogue_questions`. Raises ValueError where
    `shown` has not as many regions as the questions name."""
    places = {region: place for place, region in enumerate(named_regions(turns), 1)}
    if len(places) != len(shown):
        raise ValueError(f"{name}: the questions name {len(places)} regions, and the tokens of {len(shown)} were given")
    exchanges = []
    for number, turn in enumerate(turns):
        question = replace_tags(turn.question, lambda region: f"region{places[region]}")
        prompt = conversation.turn_prompt(question, None if number else len(shown))
        is_open = open_last and number == len(turns) - 1
        exchanges.append(Exchange(prompt, None if is_open else _answer(conversation, turn)))
    return Segment(image, tuple(exchanges), tuple(shown), keep_image, name)


def answered(questions: Questions, answers: Sequence[Sequence[int]]) -> Questions:
    """Questions whose last answers were left open, with these as the model generated them, token ids, to be read again
    for their [SEG]s. Images' states are not asked for: generation has read them."""
    segments = []
    for segment, ids in zip(questions.segments, answers, strict=True):
        last = replace(segment.exchanges[-1], answer=[Tokens(tuple(ids))])
        segments.append(replace(segment, exchanges=(*segment.exchanges[:-1], last)))
    return replace(questions, segments=segments, image_states=False)


def parse_grounded(text: str) -> list[str]:
    """The phrase before each [SEG] of an answer with its special tokens (`Generated.marked`), "" where none stands just
    before it."""
    return [_last_phrase(part) for part in text.split(SEG)[:-1]]


def grounded_phrases(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """As `parse_grounded`, of an answer's token ids: as many as it has [SEG] tokens, also where the model has spelled
    another in letters."""
    seg = tokenizer.convert_tokens_to_ids(SEG)
    ends = [at for at, token in enumerate(ids) if token == seg]
    starts = [0, *(end + 1 for end in ends)]
    parts = [list(ids[start:end]) for start, end in zip(starts, ends, strict=False)]
    return [_last_phrase(tokenizer.decode(part)) for part in parts]


def _answer(conversation: Conversation, turn: Turn) -> Prompt:
    parts, done = [], 0
    for phrase in turn.phrases:
        parts += [(turn.answer[done : phrase.start], False), (turn.answer[phrase.start : phrase.end], True)]
        done = phrase.end
    return conversation.grounded_answer([*parts, (turn.answer[done:], False)])


def _last_phrase(text: str) -> str:
    found = _PHRASE.search(text)
    return found[1].strip() if found else ""
