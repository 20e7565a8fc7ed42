"""Samples of different sizes in one batch, as xtuner's collate function for Sa2VA lays them out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from maskcap.data.record import Record, Turn
from maskcap.data.sa2va import collate_sa2va, make_sa2va_sample
from maskcap.errors import DataError


@pytest.fixture
def samples(scene, video, options, rng) -> list[dict]:
    """Phrases on tiles, text alone, a video's phrases, a marked region, questions about an image."""
    records = [
        scene,
        Record("llava/train/7", None, (), turns=(Turn("Two and two?", "Four."),)),
        video,
        replace(scene, key="osprey/x/1", regions1=scene.regions1[:1]),
        replace(scene, key="llava/train/8", regions1=(), turns=(Turn("How many?", "Three"),)),
    ]
    made = [options(dynamic_tiles=True, max_tiles=6), options(), options(frames_per_sample=3), options(), options()]
    return [make_sa2va_sample(record, rng, one) for record, one in zip(records, made, strict=True)]


def test_ragged_batches(samples):
    batch = collate_sa2va(samples)
    rows = [2 * 3 + 1, 1, 3, 1, 1]
    assert [tuple(pixels.shape) for pixels in batch["pixel_values"]] == [(count, 3, 448, 448) for count in rows]
    assert batch["frames_per_batch"] == [1, 3]  # of samples that have masks
    assert [tuple(masks.shape) for masks in batch["masks"]] == [(3, 48, 64), (2 * 3, 40, 60)]
    assert all(image.shape == (3, 1024, 1024) and image.dtype == torch.uint8 for image in batch["g_pixel_values"])
    assert len(batch["g_pixel_values"]) == sum(batch["frames_per_batch"])
    assert batch["g_pixel_values"][1].equal(samples[2]["g_pixel_values"][0])
    assert [tuple(cells.shape) for cells in batch["prompt_masks"]] == [(1, 16, 16)]
    assert batch["vp_overall_mask"].tolist() == [False] * 11 + [True, False]
    assert batch["keys"] == [sample["key"] for sample in samples]


def test_text_is_padded_on_the_right(samples):
    batch = collate_sa2va(samples)
    longest = max(len(sample["input_ids"]) for sample in samples)
    for row, sample in enumerate(samples):
        length, rest = len(sample["input_ids"]), longest - len(sample["input_ids"])
        assert batch["input_ids"][row].tolist() == sample["input_ids"].tolist() + [0] * rest
        assert batch["labels"][row].tolist() == sample["labels"].tolist() + [-100] * rest
        assert batch["attention_mask"][row].tolist() == [True] * length + [False] * rest
        assert batch["position_ids"][row].tolist() == list(range(longest))
    assert batch["attention_mask"].dtype == torch.bool and batch["position_ids"].dtype == torch.int64


def test_the_model_finds_a_place_for_every_feature(samples, tokenizer_folder):
    """What Sa2VA's model does: features of each row of an image, then a marked row's cells, fill the image tokens."""
    batch = collate_sa2va(samples)
    token = AutoTokenizer.from_pretrained(tokenizer_folder).convert_tokens_to_ids("<IMG_CONTEXT>")
    rows = torch.cat(batch["pixel_values"])
    real = rows.sum(dim=(1, 2, 3)) != 0
    marked = batch["vp_overall_mask"]
    cells = iter(batch["prompt_masks"])
    features = [
        256 + (int(next(cells).sum()) if flag else 0) for flag, shown in zip(marked, real, strict=True) if shown
    ]
    assert int((batch["input_ids"] == token).sum()) == sum(features)


def test_every_seg_has_its_masks_and_the_labels_are_the_answers(samples, tokenizer_folder):
    batch = collate_sa2va(samples)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    segs = (batch["input_ids"] == tokenizer.convert_tokens_to_ids("[SEG]")).sum(dim=1)
    with_masks = [int(count) for count in segs if count]
    shapes = zip(batch["masks"], batch["frames_per_batch"], strict=True)
    assert with_masks == [len(masks) // frames for masks, frames in shapes]
    learned = [tokenizer.decode(labels[labels != -100]).replace(" ", "") for labels in batch["labels"]]
    end = "<|im_end|>"
    sure = f"Sure,[SEG].{end}"
    assert learned == [sure * 3, f"Four.{end}", sure * 2, f"box0.{end}", f"Three{end}"]


def test_fields_that_no_sample_has_are_left_out(samples):
    batch = collate_sa2va([samples[1], samples[4]])
    assert batch["frames_per_batch"] == []
    assert not {"masks", "g_pixel_values", "prompt_masks", "vp_overall_mask"} & set(batch)


def test_nothing_is_no_batch():
    with pytest.raises(DataError, match="empty list"):
        collate_sa2va([])


def test_masks_keep_their_bits(samples):
    found = collate_sa2va(samples)["masks"][0].numpy()
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1}
