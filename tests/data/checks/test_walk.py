"""Walking several sources: in order, the same whatever the workers, with keys that come twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maskcap.data.bad_samples import BadSample
from maskcap.data.checks.inspect import Grids, inspect_record
from maskcap.data.checks.statistics import Statistics, merged
from maskcap.data.checks.walk import SourceReport, walk
from maskcap.data.record import Record
from maskcap.errors import DataError

from .conftest import BADNESS

GRIDS = Grids(image_size=16, grid=4)


class Named(list[Record]):
    """Record 1 cannot be read."""

    name = "named"

    def __getitem__(self, index):
        if index == 1:
            raise DataError("named#1: torn.", "unreadable annotation")
        return super().__getitem__(index)


@pytest.fixture
def sources(good) -> list[Named]:
    """30 and 7 records; the first source has one of every badness, the second repeats a key twice."""
    bad = [change(good(number)) for number, (_, _, change) in enumerate(BADNESS.values())]
    first = Named([*bad, *(good(i) for i in range(len(bad), 30))])
    keys = ["a", "torn", "b", "a", "c", "b", "a"]
    return [first, Named(replace(good(i), key=f"n/{key}") for i, key in enumerate(keys))]


def check(sources: list[Named], workers: int) -> tuple[list[SourceReport], list[list[BadSample]]]:
    reports = [SourceReport(source) for source in sources]
    found: list[list[BadSample]] = [[] for _ in sources]
    order = []
    for chunk in walk(sources, GRIDS, workers):
        order.append(chunk.source)
        reports[chunk.source].add(chunk)
        found[chunk.source] += chunk.problems
    assert order == sorted(order)
    return reports, [problems + report.finish() for problems, report in zip(found, reports, strict=True)]


def test_every_kind_is_found_in_order(sources):
    (first, second), found = check(sources, 0)
    names, expected = list(BADNESS), []
    for number, name in enumerate(names):
        expected.append(
            ("named#1", "unreadable annotation") if number == 1 else (f"tiny/train/{number}", BADNESS[name][0])
        )
    assert [(problem.key, problem.reason) for problem in found[0]] == expected
    assert first.statistics.counts["records"] == 30
    assert first.statistics.counts["bad_records"] == len(BADNESS) == first.statistics.counts["problems"]
    assert first.files == 29 + 1  # a record cannot be read; a pair has two files
    assert [(problem.key, problem.reason) for problem in found[1]] == [
        ("named#1", "unreadable annotation"),
        ("n/a", "duplicate key"),
        ("n/b", "duplicate key"),
        ("n/a", "duplicate key"),
    ]
    assert "record 3 has the key of record 0" in found[1][1].message
    assert "record 6 has the key of record 0" in found[1][3].message
    assert (second.statistics.counts["bad_records"], second.statistics.reasons["duplicate key"]) == (4, 3)
    assert second.statistics.first == {"unreadable annotation": ["named#1"], "duplicate key": ["n/a", "n/b"]}


def test_workers_change_nothing(sources):
    alone, shared = (check(sources, workers) for workers in (0, 2))
    assert alone[1] == shared[1]
    for one, other in zip(alone[0], shared[0], strict=True):
        assert one.statistics.to_json() == other.statistics.to_json() and one.files == other.files


def test_a_bad_record_that_also_repeats_a_key_is_one_bad_record(good):
    bad = BADNESS["empty"][2](good(0))
    (report,), (found,) = check([Named([good(0), good(1), bad])], 0)
    assert [problem.reason for problem in found] == ["unreadable annotation", "empty mask", "duplicate key"]
    assert (report.statistics.counts["bad_records"], report.statistics.counts["problems"]) == (2, 3)


def test_statistics_merge_and_name_the_first_three(good):
    parts = [Statistics() for _ in range(5)]
    for number, part in enumerate(parts):
        inspect_record([BADNESS["caption"][2](good(number))], 0, GRIDS, part)
        inspect_record([good(number)], 0, GRIDS, part)
    whole = merged(parts)
    assert whole.first == {"empty caption": ["tiny/train/0", "tiny/train/1", "tiny/train/2"]}
    assert whole.to_json()["counts"] | {"vanish_on_grid": 0} == {
        "records": 10, "bad_records": 5, "problems": 5, "pairs": 0, "images": 10, "regions": 30,
        "regions_with_captions": 30, "captions": 60, "questions": 0, "masks": 30, "empty_masks": 0,
        "kept_as_one_pixel": whole.counts["kept_as_one_pixel"], "vanish_on_grid": 0,
        "videos": 0, "without_image": 0, "turns": 0, "answer_phrases": 0, "empty_by_right": 0,
    }  # fmt: skip
    assert whole.histograms["caption_words"].count == 60 and whole.histograms["caption_words"].least == 0
