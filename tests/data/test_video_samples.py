"""Samples and batches of videos, conversations and phrases without a target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskcap.data.batch import normalise
from maskcap.data.collate import collate
from maskcap.data.images import read_image
from maskcap.data.record import Phrase, Record, Region, Turn
from maskcap.data.rle import decode_mask, empty_rle
from maskcap.data.sample import make_sample
from maskcap.errors import DataError
from maskcap.training.used_images import only_images, only_regions

SIZE = 24  # images are 24 × 32: resized in width alone


@pytest.fixture
def video(image_ref, region) -> Record:
    """Six frames and two regions: the first is seen in all of them, the second from the fourth frame on."""
    frames = tuple(image_ref(f"frame{n}", seed=n) for n in range(6))
    always = tuple(region(n).mask for n in range(6))
    later = tuple(empty_rle(24, 32) if n < 3 else region(n + 1).mask for n in range(6))
    regions = tuple(
        Region(masks[0], (f"phrase {name}",), name, may_be_empty=True, frame_masks=masks)
        for name, masks in (("always", always), ("later", later))
    )
    return Record("clips/train/1", frames[0], regions, frames=frames)


def make(record: Record, **options):
    """A sample with every region, first captions and the middle frames."""
    options = {"regions_per_image": None, "frames_per_sample": 2, "frame_choice": "middle"} | options
    return make_sample(record, np.random.default_rng(0), image_size=SIZE, **options)


def nearest(mask_HW: np.ndarray) -> np.ndarray:
    """(24, 32) → (24, 24) by the pixel at ⌊i · 32 / 24⌋."""
    return mask_HW[:, np.arange(SIZE) * 32 // SIZE]


def test_frames_and_their_masks(video):
    """Frames 1 and 4 of 6: the image, the masks and what is not to be seen."""
    sample = make(video)
    assert sample.frames is not None and sample.frame_masks is not None
    assert sample.frames.shape == (1, 3, SIZE, SIZE) and sample.frame_masks.shape == (2, 1, SIZE, SIZE)
    for k, region in enumerate(video.regions1):
        for frame, got in ((1, sample.mask1[k]), (4, sample.frame_masks[k, 0])):
            assert np.array_equal(got.numpy(), nearest(decode_mask(region.frame_masks[frame], 24, 32)))
    alone = make(Record("a/b/1", video.frames[4], (replace(video.regions1[0], frame_masks=()),)))
    assert torch.equal(sample.frames[0], alone.image1)
    assert sample.empty == (False, True)
    assert sample.caption == ["phrase always", None]  # what is not to be seen is not described
    assert sample.phrase == ["phrase always", "phrase later"]


def test_a_batch_of_a_video_a_still_and_a_text(video, image_ref, region):
    """Numbers of images, groups, masks and their owners, after normalisation too."""
    still = Record("tiny/train/1", image_ref("still", seed=9), (region(0), region(1)))
    text = Record("talk/train/1", None, (), turns=(Turn("Why?", "Because."),))
    samples = [make(still), make(video, frames_per_sample=3), make(text)]
    batch = normalise(collate(samples))
    assert batch.images.shape == (5, 3, SIZE, SIZE) and batch.masks.shape == (8, SIZE, SIZE)
    assert batch.groups == [(0,), (1, 3, 4), (2,)]
    assert batch.blank == (False, False, True) and not batch.image1[2].isnan().any()
    assert batch.mask_regions == [0, 1, 2, 3, 2, 2, 3, 3]
    assert batch.mask_images == [0, 0, 1, 1, 3, 4, 3, 4]
    assert batch.masks_of([3, 0]) == [(0, 3), (0, 6), (0, 7), (1, 0)]
    assert batch.image_sizes == [(24, 32), (24, 32), (SIZE, SIZE), (24, 32), (24, 32)]
    assert batch.regions_in(1) == [2, 3] and batch.regions_in(2) == []
    assert batch.images_with([2]) == [1, 3, 4]
    video_frames = samples[1].frame_masks
    assert video_frames is not None
    assert torch.equal(batch.masks[4:], video_frames.flatten(0, 1).float())


def test_parts_of_a_batch_keep_their_frames(video, image_ref, region):
    """Images left out take their frames and masks along; regions left out their masks alone."""
    still = Record("tiny/train/1", image_ref("still", seed=9), (region(0),))
    batch = normalise(collate([make(still), make(video), make(video, frames_per_sample=3)]))
    part = only_images(batch, [0, 2])
    assert part.groups == [(0,), (1, 2, 3)] and part.keys == ["tiny/train/1", "clips/train/1"]
    assert torch.equal(part.images, batch.images[[0, 2, 4, 5]])
    assert torch.equal(part.masks, batch.masks[[0, 3, 4, 7, 8, 9, 10]])
    assert part.mask_images == [0, 1, 1, 2, 3, 2, 3]
    fewer = only_regions(batch, [0, 4])
    assert fewer.groups == batch.groups
    assert torch.equal(fewer.masks, batch.masks[[0, 4, 9, 10]]) and fewer.mask_regions == [0, 1, 1, 1]
    assert only_images(batch, [0]).frames is None


def test_a_video_without_regions_beside_one_with(video, image_ref):
    """A conversation about a video: it has frames and no mask, in a batch, in a part of one, and alone."""
    talk = Record("talk/train/1", video.frames[0], (), frames=video.frames, turns=(Turn("What moves?", "A box."),))
    text = Record("text/train/1", None, (), turns=(Turn("Why?", "Because."),))
    batch = normalise(collate([make(talk, frames_per_sample=3), make(text), make(video)]))
    assert batch.groups == [(0, 3, 4), (1,), (2, 5)] and batch.mask_images == [2, 2, 5, 5]
    part = only_images(batch, [0, 1])
    assert part.groups == [(0, 2, 3), (1,)] and torch.equal(part.images, batch.images[[0, 1, 3, 4]])
    assert part.masks.shape == (0, SIZE, SIZE) and part.mask_regions == part.mask_images == []
    alone = only_images(part, [0])
    assert alone.groups == [(0, 1, 2)] and alone.turns == [talk.turns] and alone.region_ids == []
    assert torch.equal(alone.images, normalise(collate([make(talk, frames_per_sample=3)])).images)
    assert only_images(part, [1]).groups is None
    other = only_images(batch, [2])
    assert other.groups == [(0, 1)] and torch.equal(other.masks, batch.masks)


def test_conversations_follow_their_regions(image_ref, region):
    """The drawn regions' new numbers, in tags and phrases; the masks are the right ones."""
    regions = tuple(region(n, captions=()) for n in range(4))
    turns = (Turn("What is <region4>?", "a box", (Phrase(0, 5, 1),)),)
    sample = make(Record("talk/train/1", image_ref("a"), regions, turns=turns), regions_per_image=1)
    assert sample.region_ids == ["r1", "r3"]
    assert sample.turns == (Turn("What is <region2>?", "a box", (Phrase(0, 5, 0),)),)
    assert np.array_equal(sample.mask1[0].numpy(), nearest(decode_mask(regions[1].mask, 24, 32)))


def test_an_empty_mask_must_be_allowed(image_ref, region):
    """A phrase without a target is a sample; a mask that is empty by mistake is an error with the key."""
    nothing = Region(empty_rle(24, 32), ("a unicorn",), "r9", may_be_empty=True)
    sample = make(Record("tiny/train/1", image_ref("a"), (region(0), nothing)))
    assert sample.empty == (False, True) and sample.phrase is not None and sample.phrase[1] == "a unicorn"
    assert sample.caption is not None and sample.caption[1] is None and not sample.mask1[1].any()
    with pytest.raises(DataError, match="tiny/train/1: the mask of region 'r9' is empty"):
        make(Record("tiny/train/1", image_ref("b"), (replace(nothing, may_be_empty=False),)))


def test_a_missing_frame_is_named(video, tmp_path):
    """By the record and the file."""
    gone = replace(video.frames[4], path=tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"clips/train/1.*gone\.png"):
        make(replace(video, frames=(*video.frames[:4], gone, video.frames[5])))
    assert read_image(video.frames[4], key="still there").shape == (24, 32, 3)
