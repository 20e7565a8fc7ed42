"""What a record's conversation says of its regions: which ones it names, which ones it has masks of, what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from maskcap.data.record import Phrase, Record, Turn
from maskcap.errors import DataError

TAG = re.compile(r"<region([0-9]{1,6})>")  # more digits name nothing: such a text is left as it is


def named_regions(turns: Sequence[Turn]) -> list[int]:
    """Regions that `<regionN>` in the questions names, as indices from 0, ascending."""
    return sorted({int(number) - 1 for turn in turns for number in TAG.findall(turn.question)})


def grounded_regions(turns: Sequence[Turn]) -> list[int]:
    """The region of each phrase, in the order of the answers' [SEG]s; one may come several times."""
    return [phrase.region for turn in turns for phrase in turn.phrases]


def replace_tags(text: str, name: Callable[[int], str]) -> str:
    """The text with every `<regionN>` replaced by `name(N − 1)`."""
    return TAG.sub(lambda tag: name(int(tag[1]) - 1), text)


def renumber(turns: Sequence[Turn], places: Mapping[int, int]) -> tuple[Turn, ...]:
    """The same turns about regions that have moved: `places` has the new index of each one that they name."""
    return tuple(
        Turn(
            replace_tags(turn.question, lambda region: f"<region{places[region] + 1}>"),
            turn.answer,
            tuple(replace(phrase, region=places[phrase.region]) for phrase in turn.phrases),
        )
        for turn in turns
    )


def bad_turns(record: Record) -> Iterator[DataError]:
    """Every problem of a record's turns: empty texts, regions that it does not have, phrases that are not where they
    should be. After this each phrase has words and a mask, in the order of the answer's [SEG]s."""
    count = len(record.regions1)
    for number, turn in enumerate(record.turns, 1):
        where = f"{record.key}, turn {number}"
        for what, text in (("question", turn.question), ("answer", turn.answer)):
            if not text.strip():
                yield DataError(f"{where}: the {what} is empty; write it, or remove the turn.", "empty caption")
        for region in named_regions([turn]):
            if not 0 <= region < count:
                yield DataError(
                    f"{where}: the question names region {region + 1}, and the record has {count}. Correct the number, "
                    "or add the region.",
                    "unknown region",
                )
        yield from _bad_phrases(turn.answer, turn.phrases, count, where)


def _bad_phrases(answer: str, phrases: Sequence[Phrase], regions: int, where: str) -> Iterator[DataError]:
    end = 0
    for phrase in phrases:
        span = f"{where}: the phrase at characters {phrase.start} to {phrase.end}"
        if not 0 <= phrase.start < phrase.end <= len(answer) or not answer[phrase.start : phrase.end].strip():
            yield DataError(f"{span} is no part of the answer, which has {len(answer)}. Correct it.", "bad phrase")
        elif phrase.start < end:
            yield DataError(f"{span} overlaps the one before it, or is out of order. Correct it.", "bad phrase")
        if not 0 <= phrase.region < regions:
            yield DataError(
                f"{span} has the mask of region {phrase.region + 1}, and the record has {regions}: an answer needs one "
                "mask for each [SEG].",
                "unknown region",
            )
        end = max(end, phrase.end)
