"""What sources say of themselves and their records, and what is said for those that are plain sequences."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest

from maskcap.data.holdout import RecordSubset, hold_out
from maskcap.data.record import Record
from maskcap.data.source_facts import (
    annotation_of,
    blocks_of,
    image_of,
    key_of,
    known_bad,
    skipped_of,
    source_has_captions,
    source_has_phrases,
    source_name,
    text_size,
    text_size_of,
)
from maskcap.errors import DataError


class Telling(Sequence[Record]):
    """Says everything itself; record 2 is bad."""

    name = "telling"
    has_captions = True
    has_phrases = False
    skipped = {"frames without an object": 3}
    bad = {2: DataError("telling/2: nothing there.", "missing file")}
    blocks = (2, 1, 2)

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index):
        if index in self.bad:
            raise self.bad[index]
        return self.records[index]

    def image_of(self, index: int) -> Hashable:
        return f"image {index}"

    def key_of(self, index: int) -> str:
        return f"telling/{index}"

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        return None if index in self.bad else (index, 10 * index)

    def annotation_of(self, index: int) -> str:
        return f"{index}.json"


@pytest.fixture
def telling(tiny_source) -> Telling:
    return Telling(tiny_source(5).records)


def test_a_source_is_asked_for_what_it_knows(telling):
    assert (source_name(telling), source_has_captions(telling), source_has_phrases(telling)) == ("telling", True, False)
    assert skipped_of(telling) == {"frames without an object": 3} and list(known_bad(telling)) == [2]
    assert blocks_of(telling) == (2, 1, 2)
    assert (image_of(telling, 3), key_of(telling, 3), text_size_of(telling, 3)) == ("image 3", "telling/3", (3, 30))
    assert annotation_of(telling, 3) == "3.json"


def test_a_plain_sequence_gets_answers_too(tiny_source):
    records = tiny_source(2).records
    assert source_name(records) == "list" and source_has_captions(records) and source_has_phrases(records)
    assert skipped_of(records) == {} and known_bad(records) == {} and blocks_of(records) is None
    assert key_of(records, 1) == "list#1" and image_of(records, 1) == records[1].image1.path
    assert text_size_of(records, 1) is None and annotation_of(records, 1) is None
    assert text_size(records[0]) == (3, sum(len(f"the {n}th box") + len(f"box {n}") for n in range(3)))


def test_bad_records_do_not_stop_the_questions(telling, tiny_source):
    class Failing(list):
        def __getitem__(self, index):
            if index == 0:
                raise DataError("no")
            return super().__getitem__(index)

    records = Failing(tiny_source(2).records)
    assert source_has_captions(records) and source_has_phrases(records)
    assert image_of(records, 0) == "Failing#0"
    assert [len(part) for part in hold_out(records, 0.5)] == [1, 1]
    assert [len(part) for part in hold_out(telling, 0.3)] == [3, 2]


def test_a_subset_says_what_its_source_says_of_the_same_records(telling):
    part = RecordSubset(telling, [4, 2, 0])
    assert (part.name, part.has_captions, part.has_phrases, part.skipped) == ("telling", True, False, telling.skipped)
    assert [key_of(part, i) for i in range(3)] == ["telling/4", "telling/2", "telling/0"]
    assert [image_of(part, i) for i in range(3)] == ["image 4", "image 2", "image 0"]
    assert [text_size_of(part, i) for i in range(3)] == [(4, 40), None, (0, 0)]
    assert annotation_of(part, 0) == "4.json"
    assert list(known_bad(part)) == [1] and known_bad(part)[1] is telling.bad[2]
    assert known_bad(RecordSubset(telling, range(2))) == {}
    assert key_of(RecordSubset(part, range(1, 3)), 0) == "telling/2"


def test_shards_are_known_while_the_source_is_whole(telling, tiny_source):
    for limit in (5, 9):
        assert blocks_of(RecordSubset(telling, range(limit))) == [2, 1, 2]
    assert blocks_of(RecordSubset(telling, range(4))) == [2, 1, 1]
    assert blocks_of(RecordSubset(telling, [1, 3, 4])) == [1, 2]
    assert blocks_of(RecordSubset(telling, [1, 0, 2, 3, 4])) is None
    assert blocks_of(RecordSubset(tiny_source(3), range(3))) is None
