"""The rules of a good record: each problem is found, and training, check and shards refuse it in the same words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskcap.data.checks.inspect import Grids, inspect_record
from maskcap.data.checks.statistics import Statistics
from maskcap.data.record import Record
from maskcap.data.record_rules import bad_texts, empty_mask, missing_parts, raise_first, uneven_pair
from maskcap.data.sample import make_sample
from maskcap.data.shards.check import check_annotation
from maskcap.errors import DataError


@pytest.fixture
def record(image_ref, region) -> Record:
    return Record("tiny/train/7", image_ref("7"), (region(0), region(1)))


def broken(record: Record) -> dict[str, Record]:
    """What the reason or message holds → a record with that problem alone."""
    first, second = record.regions1
    return {
        "the record has no regions and no turns; its source": replace(record, regions1=()),
        "a pair needs both image2 and regions2": replace(record, regions2=record.regions1),
        "2 regions in the first frame, 1 in the second": replace(record, image2=record.image1, regions2=(first,)),
        "caption 1 of region 'r1' is empty": replace(
            record, regions1=(first, replace(second, captions=("a box", " "), questions=()))
        ),
        "'r1' has 2 captions and 1 questions": replace(
            record, regions1=(first, replace(second, captions=("a box", "a red box"), questions=("what?",)))
        ),
    }


def test_training_check_and_shards_say_the_same(record):
    for message, bad in broken(record).items():
        (problem,) = inspect_record([bad], 0, Grids(16, 4), Statistics()).problems
        assert problem.message.startswith("tiny/train/7: ") and message in problem.message
        with pytest.raises(DataError) as in_training:
            make_sample(bad, np.random.default_rng(0), image_size=16, regions_per_image=None)
        with pytest.raises(DataError) as in_shards:
            check_annotation(bad)
        for error in (in_training.value, in_shards.value):
            assert (str(error), error.reason) == (problem.message, problem.reason)
    check_annotation(record)


def test_every_problem_is_found_and_the_first_is_raised(record):
    nothing = replace(record, regions1=(), regions2=())
    assert [error.reason for error in missing_parts(nothing)] == ["no regions", "malformed record"]
    region = replace(record.regions1[0], captions=(" ", "a box", ""), questions=("what?",))
    found = list(bad_texts(region, record.key))
    assert [error.reason for error in found] == ["empty caption", "empty caption", "malformed record"]
    with pytest.raises(DataError, match="caption 0 of region 'r0'"):
        raise_first(found)
    raise_first([*missing_parts(record), *uneven_pair(record)])


def test_questions_without_captions_are_no_problem(record):
    assert list(bad_texts(replace(record.regions1[0], captions=(), questions=("what?",)), record.key)) == []


def test_an_empty_mask_has_a_reason_and_a_fix():
    error = empty_mask("tiny/train/7, region r0: the mask")
    assert error.reason == "empty mask" and str(error).startswith("tiny/train/7, region r0: the mask is empty: ")
    assert "Remove the region" in str(error)
