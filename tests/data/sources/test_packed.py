"""Conversations that are kept as bytes read back as they were."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from maskcap.data.record import Record, Turn
from maskcap.data.sources.packed import Talk, TalkSource
from maskcap.errors import DataError


class Plain(Talk):
    """A talk whose record has no image."""

    def record(self, key: str) -> Record:
        """The turns alone."""
        return Record(key, None, (), turns=self.turns)


ODD = (Turn("Ünï\u2028 \ud800 \U0001f408?", '"quoted"\n\\ \0'), Turn("And?", "é" * 300))
SLOTS = [
    ("set/0", Plain(Path("a/ü.jpg"), ODD)),
    ("set/1", DataError("entry 1: wrong.", "no turns")),
    ("set/ä#2", Plain(None, (Turn("Q", "A"),))),
]


def test_every_talk_reads_back():
    source = TalkSource(iter(SLOTS), "told.json", Plain)
    for each in (source, pickle.loads(pickle.dumps(source))):
        assert [each.key_of(i) for i in range(len(each))] == ["set/0", "set/1", "set/ä#2"]
        assert each[0].turns == ODD and each[-1] == Record("set/ä#2", None, (), turns=(Turn("Q", "A"),))
        assert [each.image_of(i) for i in range(3)] == [Path("a/ü.jpg"), "set/1", "set/ä#2"]
        characters = sum(len(turn.question) + len(turn.answer) for turn in ODD)
        assert [each.text_size_of(i) for i in range(3)] == [(0, characters), None, (0, 2)]
        assert list(each.bad) == [1] and each.has_turns and not each.has_captions
        with pytest.raises(DataError, match=r"entry 1: wrong\.") as caught:
            each[1]
        assert caught.value.reason == "no turns"
        with pytest.raises(IndexError):
            each[3]


def test_a_set_of_bad_entries_alone_is_an_error():
    with pytest.raises(DataError, match=r"told\.json: its only record is bad: entry 1: wrong\."):
        TalkSource(SLOTS[1:2], "told.json", Plain)
