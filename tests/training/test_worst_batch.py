"""Which records make the batches that need the most memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.record import ImageRef, Phrase, Record, Region, Turn
from maskcap.training.faults.memory import describe
from maskcap.training.worst_batch import worst_batches

MASK = np.ones((8, 8), np.uint8)


def regions(count: int, frames: int = 0, words: str = "a box") -> tuple[Region, ...]:
    return tuple(Region(MASK, (words,), str(number), frame_masks=(MASK,) * frames) for number in range(count))


def data(records: list[Record], frames_per_sample: int = 5) -> MaskCaptionDataModule:
    """These records at 8 px, two regions of each."""
    return MaskCaptionDataModule(
        {"all": lambda: records}, image_size=8, regions_per_image=2, frames_per_sample=frames_per_sample
    )


def test_the_most_regions_frames_and_words_are_tried_each(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    image = ImageRef(tmp_path / "a.png", 8, 8)
    records = [
        Record("few/train/0", image, regions(1, words="the longest of all captions")),
        Record("many/train/1", image, regions(5)),
        Record("grounded/train/2", image, regions(3), turns=(Turn("q", "box", (Phrase(0, 3, 2),)),)),
        Record("clip/train/3", image, regions(2, frames=3), frames=(image,) * 3),
        Record("long/train/4", image, regions(1, frames=9), frames=(image,) * 9),
        Record("talk/train/5", None, (), turns=(Turn("q", "a"), Turn("why", "because" * 9))),
    ]
    plain = worst_batches(data(records[:2]))
    assert [batch(3).keys for batch in plain] == [["many/train/1"] * 3]
    assert plain[0](1).caption == ["the longest of all captions"] * 2
    # A grounded phrase comes beside the two regions that are drawn; of nine frames no more than four are shown.
    found = [batch(2) for batch in worst_batches(data(records, frames_per_sample=4))]
    assert [batch.keys[0] for batch in found] == ["grounded/train/2", "long/train/4", "talk/train/5"]
    assert [len(batch.region_ids) for batch in found] == [6, 2, 0] and len(found[1].frame_owner) == 6
    clips = [batch(1).keys[0] for batch in worst_batches(data(records, frames_per_sample=3))]
    assert clips[1] == "clip/train/3"  # as many frames, and more masks in them
    assert "clip/train/3 (8×8 px, 2 regions, 3 frames)" in describe(worst_batches(data(records[3:4]))[0](1))
    assert "talk/train/5 (no image, 0 regions, 2 turns)" in describe(found[2])
