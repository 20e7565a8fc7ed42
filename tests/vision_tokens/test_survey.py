"""A data set's numbers against plain loops over its images, and views against the canvas they are cut from."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.record import ImageRef, Record
from maskcap.errors import DataError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.survey import Gathered, Sample, fitness, judge_list, list_of_crops, survey
from maskcap.vision_tokens.tiling import Fit, fit

INTERNVL = Geometry(448)
IMAGES = [(480, 640), (480, 640), (640, 480), (300, 300), (1000, 500), (427, 640), (1500, 2250), (90, 100)]


def record(index: int, height: int, width: int, second: ImageRef | None = None) -> Record:
    return Record(f"set/{index}", ImageRef(Path(f"{index}.jpg"), height, width), (), second, None)


class WithBad(list):
    """Record 1 is bad."""

    def __getitem__(self, index):
        if index == 1:
            raise DataError("bad")
        return super().__getitem__(index)


def gather(rule: TilingRule, images=IMAGES, sample: int = 3) -> Gathered:
    gathered = Gathered(rule.choose, sample, np.random.default_rng(0))
    records = [record(index, *size) for index, size in enumerate(images)]
    for index in range(len(records)):
        gathered.add(records, index)
    return gathered


def test_images_are_counted_once_and_bad_records_apart():
    rule = TilingRule(INTERNVL)
    gathered = gather(rule)
    assert gathered.sizes == Counter(IMAGES) and (gathered.images, gathered.records, gathered.bad) == (8, 8, 0)
    gathered.add([record(0, 480, 640, ImageRef(Path("v.mp4"), 10, 20, frame=4))], 0)  # 0.jpg was there before
    gathered.add([record(0, 480, 640, ImageRef(Path("v.mp4"), 10, 20, frame=8))], 0)
    assert gathered.images == 10 and gathered.sizes[10, 20] == 2
    gathered.add(WithBad([record(50, 1, 1), record(51, 1, 1)]), 1)
    gathered.add([record(52, 0, 10)], 0)
    assert (gathered.images, gathered.records, gathered.bad) == (10, 12, 2)


def test_fitness_is_the_mean_over_images():
    rule = TilingRule(MOLMO, max_crops=6)
    errors, paddings = [], []
    for height, width in IMAGES:
        rows, columns = rule.choose(height, width)
        canvas_height, canvas_width = 224 * rows + 112, 224 * columns + 112
        errors.append(abs(math.log(width / height) - math.log(canvas_width / canvas_height)))
        place = fit(height, width, (canvas_height, canvas_width))
        covered = np.zeros((canvas_height, canvas_width), bool)
        covered[place.top : place.top + place.height, place.left : place.left + place.width] = True
        paddings.append(1 - covered.mean())
    found = fitness(Counter(IMAGES), rule.choose, MOLMO, of=16)
    assert (found.images, found.share) == (8, 0.5)
    assert found.aspect_error == pytest.approx(np.mean(errors)) and found.padding == pytest.approx(np.mean(paddings))
    assert fitness({}, rule.choose, MOLMO, of=8).padding is None


def test_entries_of_a_token_list_share_the_images():
    rule = TilingRule(MOLMO, vision_tokens=[432, 720, 1008, 1440])
    assert list_of_crops([2, 4, 6, 9], MOLMO) == rule
    entries = judge_list(Counter(IMAGES), rule)
    assert [(entry.entry, entry.crops) for entry in entries] == [("432", 2), ("720", 4), ("1008", 6), ("1440", 9)]
    crops = Counter(math.prod(rule.choose(*size)) for size in IMAGES)
    assert {entry.crops: entry.fit.images for entry in entries} == {2: 0, 4: 0, 6: 0, 9: 0} | crops
    assert sum(entry.fit.share for entry in entries) == pytest.approx(1)
    assert all(math.prod(tiling) == entry.crops for entry in entries for tiling in entry.tilings)
    (taken,) = [entry for entry in entries if entry.entry == "432"]
    portrait = {size for size in IMAGES if rule.choose(*size) == (2, 1)}
    assert portrait == {(1000, 500)} and taken.tilings[2, 1] == 1


def test_entries_of_a_size_list_are_the_nearest_aspect_ratios():
    rule = TilingRule(MOLMO, image_sizes=["560x336", "336x560", "560x560"])
    entries = judge_list(Counter(IMAGES), rule)
    listed = [(560, 336), (336, 560), (560, 560)]
    nearest = Counter(
        min(listed, key=lambda size: abs(math.log(size[1] / size[0] * height / width))) for height, width in IMAGES
    )
    assert [entry.fit.images for entry in entries] == [nearest[size] for size in listed]
    assert [entry.crops for entry in entries] == [2, 2, 4]
    assert judge_list(Counter(IMAGES), TilingRule(MOLMO)) == []


def test_a_survey_in_plain_numbers():
    rule = TilingRule(INTERNVL, max_crops=4)
    found = survey(gather(rule), rule, [1, 4])
    tilings = [rule.choose(*size) for size in IMAGES]
    content = found.to_json()
    assert found.tilings == Counter(tilings) and list(found.tilings)[0] == (1, 1)
    kept = [(rows * 12 + 4) * (columns * 12 + 4) + 256 for rows, columns in tilings]
    assert content["mean_kept"] == pytest.approx(np.mean(kept))
    assert content["mean_slots"] == pytest.approx(np.mean([256 * (math.prod(tiling) + 1) for tiling in tilings]))
    assert (content["images"], content["distinct_sizes"], content["list"]["of"]) == (8, 7, "1, 4 crops")
    assert sum(tiling["share"] for tiling in content["tilings_taken"]) == pytest.approx(1)
    ratios = content["aspect_ratio"]
    assert sum(ratios["counts"]) == 8 and (ratios["least"], ratios["most"]) == (0.5, 1.5)
    square = next(i for i, edge in enumerate(ratios["edges"]) if edge > 1) - 1
    assert ratios["edges"][square] * ratios["edges"][square + 1] == pytest.approx(1) and ratios["counts"][square] == 1
    alone = survey(gather(rule), rule, [1, 4], global_view=False)
    assert alone.to_json()["mean_kept"] == pytest.approx(np.mean(kept) - 256)
    tokens = TilingRule(INTERNVL, vision_tokens=768)
    assert [e["entry"] for e in survey(gather(tokens), tokens, [4]).to_json()["list"]["entries"]] == ["768"]


def test_samples_are_even_over_the_crop_counts():
    rule = TilingRule(INTERNVL)
    images = [(300, 300)] * 50 + [(300, 700)] * 5 + [(2000, 2000)]
    gathered = gather(rule, images, sample=4)
    many = math.prod(rule.choose(2000, 2000))
    assert [crops for crops, _ in gathered.evenly()] == [1, 2, many, 1, 2, 1, 2, 1, 2]
    assert len({ref.path for _, ref in gathered.evenly()}) == 9


def test_every_image_is_drawn_as_often():
    refs = [ImageRef(Path(f"{number}"), 1, 1) for number in range(6)]
    times: Counter[str] = Counter()
    for seed in range(600):
        sample = Sample(2, np.random.default_rng(seed))
        for ref in refs:
            sample.offer(ref)
        assert len({ref.path for ref in sample.drawn}) == 2
        times.update(str(ref.path) for ref in sample.drawn)
    assert all(150 < times[str(number)] < 250 for number in range(6))  # 200 each; 4.3 deviations


def test_a_fit_is_where_the_padding_is_counted():
    from maskcap.vision_tokens.views import padding_share

    assert padding_share(Fit(100, 50, 0, 25), (100, 100)) == 0.5
