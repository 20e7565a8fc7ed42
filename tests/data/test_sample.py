from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskcap.data import sample as sample_module
from maskcap.data.record import Record
from maskcap.data.rle import encode_mask
from maskcap.errors import ConfigError, DataError, ImageDecodeError, MaskDecodeError


@pytest.fixture
def record(image_ref, region) -> Record:
    return Record("tiny/train/7", image_ref("a"), tuple(region(n) for n in range(6)))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_sample(record: Record, rng: np.random.Generator, **options) -> Any:
    """The function under test; Any, since the optional fields are there or not by the test's own making."""
    return sample_module.make_sample(record, rng, **options)


def box(region_id: str, height: int = 24, width: int = 32) -> np.ndarray:
    """The mask that region "r<number>" encodes: uint8 0/1 (H, W), its place as in conftest.py."""
    number = int(region_id[1:])
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[number : number + 4, 2 * number : 2 * number + 5] = 1
    return mask_HW


def test_shapes_types_and_mapping_access(record):
    sample = make_sample(record, rng(), image_size=16, regions_per_image=4)
    assert sample.image1.dtype == torch.uint8 and sample.image1.shape == (3, 16, 16)
    assert sample["mask1"].dtype == torch.uint8 and sample["mask1"].shape == (4, 16, 16)
    assert set(sample.mask1.unique().tolist()) == {0, 1}
    assert sample["image2"] is None and sample["mask2"] is None
    assert (sample.key, sample.size, sample.source) == ("tiny/train/7", (24, 32), "tiny")
    with pytest.raises(KeyError, match="no field 'masks'"):
        sample["masks"]


def test_pixels_are_a_direct_resize_as_pillows(record):
    sample = make_sample(record, rng(), image_size=16)
    whole = Image.open(record.image1.path).convert("RGB")
    expected_SS3 = np.asarray(whole.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(sample.image1.permute(1, 2, 0).numpy().astype(int) - expected_SS3).max() <= 2


def test_masks_are_torchs_nearest(record):
    sample = make_sample(record, rng(), image_size=17, regions_per_image=None)
    for mask_SS, region in zip(sample.mask1, record.regions1, strict=True):
        whole = torch.from_numpy(box(region.id)).float()
        expected = torch.nn.functional.interpolate(whole[None, None], (17, 17), mode="nearest")[0, 0]
        assert torch.equal(mask_SS.float(), expected)


def test_at_its_own_size_nothing_is_resampled(image_ref, region):
    record = Record("tiny/train/0", image_ref("square", 24, 24), (region(1, 24, 24),))
    sample = make_sample(record, rng(), image_size=24)
    assert np.array_equal(sample.image1.permute(1, 2, 0).numpy(), np.asarray(Image.open(record.image1.path)))
    assert np.array_equal(sample.mask1[0].numpy(), box("r1", 24, 24))


def test_a_resized_copy_serves_with_masks_of_the_original(record, tmp_path):
    """What shards of resized images hold: pixels of 16 × 16, masks and size of 24 × 32."""
    whole = make_sample(record, rng(), image_size=16, regions_per_image=None)
    Image.fromarray(whole.image1.permute(1, 2, 0).numpy()).save(tmp_path / "small.png")
    stored = replace(record, image1=replace(record.image1, path=tmp_path / "small.png", stored=(16, 16)))
    sample = make_sample(stored, rng(), image_size=16, regions_per_image=None)
    assert torch.equal(sample.image1, whole.image1) and torch.equal(sample.mask1, whole.mask1)
    assert sample.size == (24, 32) and sample.image1.is_contiguous()


def test_regions_are_drawn_without_replacement_and_all_come_up(record):
    drawn = [make_sample(record, rng(i), image_size=8, regions_per_image=3).region_ids for i in range(60)]
    assert all(len(set(ids)) == 3 and ids == sorted(ids) for ids in drawn)
    counts = {f"r{n}": sum(f"r{n}" in ids for ids in drawn) for n in range(6)}
    assert min(counts.values()) >= 15  # 30 expected each
    assert len(make_sample(record, rng(), image_size=8, regions_per_image=99).region_ids) == 6
    assert len(make_sample(record, rng(), image_size=8, regions_per_image=None).region_ids) == 6


def test_masks_texts_and_ids_stay_together(record):
    sample = make_sample(record, rng(3), image_size=32, regions_per_image=2)
    whole = make_sample(record, rng(3), image_size=32, regions_per_image=None)
    for k, region_id in enumerate(sample.region_ids):
        assert torch.equal(sample.mask1[k], whole.mask1[whole.region_ids.index(region_id)])
        assert sample.caption[k] in (f"the {region_id[1]}th box", f"box {region_id[1]}")


def test_same_generator_state_same_sample(record):
    first, second = (make_sample(record, rng(5), image_size=8, regions_per_image=2) for _ in range(2))
    assert first.region_ids == second.region_ids and first.caption == second.caption and first.phrase == second.phrase
    assert torch.equal(first.image1, second.image1) and torch.equal(first.mask1, second.mask1)


def test_first_and_random_captions(record):
    first = make_sample(record, rng(), image_size=8, regions_per_image=1, caption_choice="first", phrase_choice="first")
    number = first.region_ids[0][1]
    assert first.caption == first.phrase == [f"the {number}th box"]
    assert first.references == [(f"the {number}th box",)]
    drawn = [make_sample(record, rng(i), image_size=8) for i in range(40)]
    assert {sample.caption[0].startswith("the") for sample in drawn} == {True, False}
    assert any(sample.caption != sample.phrase for sample in drawn)
    assert all(len(sample.references[0]) == 2 for sample in drawn)


def test_phrase_only_where_it_singles_out(image_ref, region):
    regions = (region(0, captions=("yes",), referring=False), region(1, captions=()), region(2))
    sample = make_sample(Record("t/x/0", image_ref("a"), regions), rng(), image_size=8, regions_per_image=None)
    assert sample.caption[:2] == ["yes", None] and sample.phrase[:2] == [None, None]
    assert sample.phrase[2] is not None and sample.references[1] == ()


def test_no_captions_anywhere(image_ref, region):
    sample = make_sample(Record("sa1b/train/1", image_ref("a"), (region(0, captions=()),)), rng(), image_size=8)
    assert sample.caption is sample.phrase is sample.question is sample.references is None


def test_references_answer_the_same_question(image_ref, region):
    captions, questions = ("red", "crimson", "a ball"), ("What colour?", "What colour?", None)
    record = Record("t/x/0", image_ref("a"), (region(0, captions=captions, questions=questions),))
    for seed in range(20):
        sample = make_sample(record, rng(seed), image_size=8)
        colour = sample.question == ["What colour?"]
        assert sample.references == [("red", "crimson") if colour else ("a ball",)]
        assert sample.caption[0] in sample.references[0]


def test_pairs_show_the_same_regions(image_ref, region):
    numbers = (0, 1, 2, 3)
    record = Record(
        "sav/train/0",
        image_ref("a"),
        tuple(region(n) for n in numbers),
        image_ref("b", 30, 40, seed=1),
        tuple(region(n, 30, 40) for n in numbers),
    )
    sample = make_sample(record, rng(2), image_size=20, regions_per_image=2)
    assert sample.image2.shape == (3, 20, 20) and sample.mask2.shape == (2, 20, 20)
    for k, region_id in enumerate(sample.region_ids):
        whole = torch.from_numpy(box(region_id, 30, 40)).float()
        expected = torch.nn.functional.interpolate(whole[None, None], (20, 20), mode="nearest")[0, 0]
        assert torch.equal(sample.mask2[k].float(), expected)


def test_empty_caption_names_key_and_region(record):
    bad = replace(record, regions1=(replace(record.regions1[0], captions=("fine", "  ")),))
    with pytest.raises(DataError, match=r"tiny/train/7: caption 1 of region 'r0' is empty") as caught:
        make_sample(bad, rng(), image_size=8)
    assert caught.value.reason == "empty caption"


def test_an_empty_mask_names_key_and_region(record):
    empty = np.zeros((24, 32), np.uint8)
    for mask in (empty, {"size": [24, 32], "counts": [24 * 32]}):
        bad = replace(record, regions1=(replace(record.regions1[0], mask=mask),))
        with pytest.raises(
            DataError, match=r"tiny/train/7: the mask of region 'r0' is empty.*Remove the region"
        ) as caught:
            make_sample(bad, rng(), image_size=8)
        assert caught.value.reason == "empty mask"


@pytest.mark.parametrize("as_rle", [True, False])
def test_a_region_between_the_resized_pixels_stays_as_one(record, as_rle):
    speck = np.zeros((24, 32), np.uint8)
    speck[13, 21:23] = speck[14, 22] = 1  # 8 × 8 samples rows 0, 3, … and columns 0, 4, …
    if as_rle:
        speck = encode_mask(speck)
    small = replace(record, regions1=(replace(record.regions1[0], mask=speck), record.regions1[1]))
    sample = make_sample(small, rng(), image_size=8, regions_per_image=None)
    assert torch.nonzero(sample.mask1[0]).tolist() == [[13 * 8 // 24, 22 * 8 // 32]]
    assert sample.tiny_regions == 1 and sample.mask1[1].sum() == 1  # the other's pixel is a sample of its own
    assert make_sample(small, rng(), image_size=24, regions_per_image=None).tiny_regions == 0


def test_wrong_records_are_named(record, region):
    with pytest.raises(DataError, match="tiny/train/7: the record has no regions") as caught:
        make_sample(replace(record, regions1=()), rng(), image_size=8)
    assert caught.value.reason == "no regions"
    with pytest.raises(DataError, match="tiny/train/7: a pair needs both"):
        make_sample(replace(record, image2=record.image1), rng(), image_size=8)
    with pytest.raises(DataError, match="6 regions in the first frame, 1 in the second"):
        make_sample(replace(record, image2=record.image1, regions2=(region(0),)), rng(), image_size=8)
    with pytest.raises(DataError, match="2 captions and 1 questions"):
        bad = replace(record, regions1=(region(0, questions=("why?",)),))
        make_sample(bad, rng(), image_size=8)


def test_mask_of_another_size_and_missing_image_name_the_key(record, region):
    with pytest.raises(MaskDecodeError, match="tiny/train/7, region r0"):
        make_sample(replace(record, regions1=(region(0, 25, 32),)), rng(), image_size=8)
    record.image1.path.unlink()
    with pytest.raises(ImageDecodeError, match="tiny/train/7"):
        make_sample(record, rng(), image_size=8)


@pytest.mark.parametrize(
    "options", [{"image_size": 0}, {"regions_per_image": 0}, {"caption_choice": "best"}, {"phrase_choice": ""}]
)
def test_impossible_options(record, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_sample(record, rng(), **({"image_size": 8} | options))
