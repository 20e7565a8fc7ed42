"""The loader's benchmark at a tiny size: its files are real, its recipe is right, its numbers are written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import loader, photos, recipe, timing
from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.data.rle import decode_mask
from maskcap.data.sample import make_sample
from maskcap.data.sources import SA1BSource


@pytest.fixture
def folder(tmp_path):
    photos.write_images(tmp_path, 2, short_side=60, masks=5)
    return tmp_path


def test_drawn_files_are_sa1b(folder):
    source = SA1BSource(folder)
    assert [record.key for record in (source[0], source[1])] == ["sa1b/train/1", "sa1b/train/2"]
    for record in source:
        assert min(record.image1.height, record.image1.width) == 60 and len(record.regions1) == 5
        annotations = json.loads(record.image1.path.with_suffix(".json").read_text())["annotations"]
        for region, annotation in zip(record.regions1, annotations, strict=True):
            rows, columns = np.nonzero(decode_mask(region.mask, record.image1.height, record.image1.width))
            left, top, width, height = annotation["bbox"]
            assert (rows.min(), columns.min(), np.ptp(rows), np.ptp(columns)) == (top, left, height, width)
            assert annotation["area"] == rows.size


def test_drawn_files_are_the_same_again(folder, tmp_path):
    photos.write_images(tmp_path / "again", 2, short_side=60, masks=5)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools and numpy 2
def test_the_recipe_loads_what_maskcap_loads(folder):
    """A fair race: the same pixels to a level or two, and masks sampled half a pixel apart."""
    pixels_3SS, mask_SS = recipe.load_region(folder / "sa_1.json", np.random.default_rng(0), 32)
    sample = make_sample(SA1BSource(folder)[0], np.random.default_rng(0), image_size=32, regions_per_image=None)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert pixels_3SS.dtype == mask_SS.dtype == torch.float32
    assert ((pixels_3SS * std + mean) * 255 - sample.image1).abs().max() < 2.5
    assert (mask_SS - sample.mask1.float()).abs().mean(dim=(1, 2)).min() < 0.1


def test_each_ratio_is_printed_and_written(tmp_path, capsys):
    options = ["--images", "2", "--rounds", "1", "--short-side", "60", "--masks", "9"]
    ratios = loader.main([*options, "--json", str(tmp_path / "out.json")])
    names = {"k1_vs_recipe", "k8_vs_recipe", "shards_k1_vs_recipe", "shards_k8_vs_recipe", "k1_vs_decode"}
    assert json.loads((tmp_path / "out.json").read_text()) == ratios and set(ratios) == names
    assert all(ratio > 0 for ratio in ratios.values())
    printed = capsys.readouterr().out
    assert all(name in printed for name in names | set(loader.REGIONS))


def test_tables_line_up():
    lines = timing.table(["what", "ms"], [["a long name", "1.5"], ["b", "10.25"]]).splitlines()
    assert lines[0] == "| what        |    ms |" and lines[1] == "| ----------- | ----: |"
    assert lines[2] == "| a long name |   1.5 |" and len({len(line) for line in lines}) == 1


def test_cases_take_turns_and_the_first_is_not_counted():
    calls = []
    times = timing.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and len(times["a"].clock) == len(times["b"].processor) == 2
    assert timing.Times([1.0, 3.0, 2.0], [4.0]).scaled(10).processor_median == 20
