"""Every kind of badness is found and named, by itself and together with others; good records are measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcap.data.checks.inspect import Grids, inspect_record, pool_mask
from maskcap.data.checks.statistics import Statistics
from maskcap.data.record import Record
from maskcap.data.sample import make_sample
from maskcap.data.sources.lenient import joined
from maskcap.errors import DataError, MaskcapError
from maskcap.models.region_prompt import pool_masks

from .conftest import BADNESS

GRIDS = Grids(image_size=16, grid=4)


class Annotated(list):
    """A source that knows where it was written down."""

    def annotation_of(self, index: int) -> str:
        return "/data/set.json"


@pytest.mark.parametrize("name", BADNESS)
def test_each_kind_of_badness(good, name):
    reason, message, change = BADNESS[name]
    record, statistics = change(good(3)), Statistics()
    (problem,) = inspect_record(Annotated([record]), 0, GRIDS, statistics).problems
    assert (problem.key, problem.reason) == ("tiny/train/3", reason)
    assert re.search(message, problem.message) and "tiny/train/3" in problem.message
    assert problem.message.endswith("Annotated in /data/set.json.")
    assert statistics.counts["bad_records"] == statistics.counts["problems"] == 1
    assert statistics.reasons == {reason: 1} and statistics.first == {reason: ["tiny/train/3"]}
    with pytest.raises(MaskcapError):  # training refuses it as well
        make_sample(record, np.random.default_rng(0), image_size=16, regions_per_image=None)


def test_a_good_record_has_no_problem(good):
    statistics = Statistics()
    inspected = inspect_record([good(0)], 0, GRIDS, statistics)
    assert inspected.problems == () and inspected.record is good(0)
    make_sample(good(0), np.random.default_rng(0), image_size=16, regions_per_image=None)
    assert {name: count for name, count in statistics.counts.items() if count} == {
        "records": 1, "images": 1, "regions": 3, "regions_with_captions": 3, "captions": 6, "masks": 3,
    } | {name: count for name, count in statistics.counts.items() if count and name == "vanish_on_grid"}  # fmt: skip
    measured = {name: histogram for name, histogram in statistics.histograms.items() if histogram.count}
    assert {name: (h.count, h.least, h.most, h.total) for name, h in measured.items()} == {
        "height": (1, 24, 24, 24),
        "width": (1, 32, 32, 32),
        "aspect_ratio": (1, 32 / 24, 32 / 24, 32 / 24),
        "regions_per_record": (1, 3, 3, 3),
        "mask_area": (3, 20 / 768, 20 / 768, pytest.approx(60 / 768)),
        "captions_per_region": (3, 2, 2, 6),
        "caption_words": (6, 2, 3, 15),  # "the 0th box", "box 0"
    }


def test_one_record_with_many_problems_names_them_all(good):
    record = good(0)
    for name in ("missing", "rle", "caption"):
        record = BADNESS[name][2](record)
    regions = tuple(replace(r, mask=[[1, 1, 2]]) if r.id == "r2" else r for r in record.regions1)
    record = replace(record, regions1=regions, image2=record.image1, regions2=regions[:1])
    problems = inspect_record([record], 0, GRIDS, Statistics()).problems
    assert [problem.reason for problem in problems] == [
        "missing file", "empty caption", "malformed RLE", "malformed polygon", "malformed record", "missing file",
    ]  # fmt: skip
    assert "region r2" in problems[3].message


class Refusing(list[Record]):
    def __getitem__(self, index):
        raise DataError("no such thing", "unreadable annotation")

    def key_of(self, index: int) -> str:
        return f"it/{index}"


def test_a_record_that_cannot_be_read_has_its_key(good):
    inspected = inspect_record(Refusing([good(0)]), 0, GRIDS, Statistics())
    assert inspected.record is None
    (problem,) = inspected.problems
    assert (problem.key, problem.reason, problem.message) == ("it/0", "unreadable annotation", "no such thing")


class Torn(Refusing):
    bad = {0: joined([DataError("a caption is empty.", "empty caption"), DataError("no image.", "missing file")])}

    def __getitem__(self, index):
        raise self.bad[index]


def test_everything_that_a_source_found_wrong_is_listed(good):
    problems = inspect_record(Torn([good(0)]), 0, GRIDS, Statistics()).problems
    assert [(p.key, p.reason, p.message) for p in problems] == [
        ("it/0", "empty caption", "a caption is empty."),
        ("it/0", "missing file", "no image."),
    ]


def test_pairs_are_counted_in_both_frames(good):
    record = replace(good(0), image2=good(1).image1, regions2=good(1).regions1)
    statistics = Statistics()
    assert inspect_record([record], 0, GRIDS, statistics).problems == ()
    counts = statistics.counts
    assert [counts[name] for name in ("records", "pairs", "images", "regions", "masks")] == [1, 1, 2, 3, 6]


@pytest.mark.parametrize(("height", "width", "size", "grid"), [(24, 32, 16, 4), (100, 60, 64, 16), (30, 30, 30, 7)])
def test_what_vanishes_is_what_the_model_loses(image_ref, whole_region, height, width, size, grid):
    """Against make_sample's mask and the model's own pooling, on squares of all sizes at random places."""
    rng, regions = np.random.default_rng(0), []
    for number in range(120):
        mask_HW = np.zeros((height, width), np.uint8)
        side = 1 + number % 9
        top, left = rng.integers(0, [height - side, width - side])
        mask_HW[top : top + side, left : left + side] = 1
        regions.append(replace(whole_region(mask_HW), id=str(number)))
    record, statistics = Record("t/0", image_ref("t", height, width), tuple(regions)), Statistics()
    assert inspect_record([record], 0, Grids(size, grid), statistics).problems == ()
    sample = make_sample(record, rng, image_size=size, regions_per_image=None)
    pooled = pool_masks(sample.mask1, grid)
    vanish = int((~pooled.flatten(1).any(dim=1)).sum())
    assert 0 < vanish < 120
    assert statistics.counts["vanish_on_grid"] == vanish
    assert statistics.counts["kept_as_one_pixel"] == sample.tiny_regions
    for mask_SS, expected in zip(sample.mask1, pooled, strict=True):
        assert torch.equal(torch.from_numpy(pool_mask(mask_SS.numpy(), grid)).bool(), expected)


def test_the_real_readers_reasons_need_no_real_paths(good):
    """A record of a file that is a folder is a problem, not a crash."""
    record = replace(good(0), image1=replace(good(0).image1, path=Path(__file__).parent))
    (problem,) = inspect_record([record], 0, GRIDS, Statistics()).problems
    assert problem.reason == "unreadable image"
