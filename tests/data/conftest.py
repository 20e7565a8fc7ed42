"""Tiny real records: a PNG on disk, and masks as compressed RLE made by pycocotools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.record import ImageRef, Phrase, Record, Region, Turn
from maskcap.data.rle import empty_rle


def rectangle(height: int, width: int, top: int, left: int) -> np.ndarray:
    """uint8 0/1 (H, W): the 4 × 5 rectangle at (top, left)."""
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[top : top + 4, left : left + 5] = 1
    return mask_HW


@dataclass
class TinySource(Sequence[Record]):
    """The smallest thing that is a source."""

    records: list[Record]
    name: str = "tiny"
    has_captions: bool = True

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


@pytest.fixture
def image_ref(tmp_path: Path) -> Callable[..., ImageRef]:
    """image_ref(name, height, width, seed) writes a PNG of noise and refers to it."""

    def write(name: str, height: int = 24, width: int = 32, seed: int = 0) -> ImageRef:
        pixels_HW3 = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels_HW3).save(path)
        return ImageRef(path, height, width)

    return write


@pytest.fixture
def region() -> Callable[..., Region]:
    """region(number, height, width, captions=…, …): a rectangle whose place follows from its number, as RLE."""

    def make(number: int, height: int = 24, width: int = 32, **fields) -> Region:
        rle = coco.encode(np.asfortranarray(rectangle(height, width, number, 2 * number)))
        fields.setdefault("captions", (f"the {number}th box", f"box {number}"))
        return Region(mask=rle, id=f"r{number}", **fields)

    return make


@pytest.fixture
def tiny_source(image_ref, region) -> Callable[..., TinySource]:
    """tiny_source(count, name, regions): `count` records `name/train/i`, each an image and some regions."""

    def make(count: int, name: str = "tiny", regions: int = 3) -> TinySource:
        records = [
            Record(f"{name}/train/{i}", image_ref(f"{name}{i}", seed=i), tuple(region(n) for n in range(regions)))
            for i in range(count)
        ]
        return TinySource(records, name)

    return make


@pytest.fixture
def spoken_records(image_ref, region) -> list[Record]:
    """A video of four frames whose second object comes and goes, a grounded answer about an image, a conversation
    without an image, a phrase that means nothing."""
    frames = tuple(image_ref(f"v/{number}", seed=number) for number in range(4))
    empty = empty_rle(24, 32)
    masks = [region(number).mask for number in range(4)]
    video = Record(
        "videos/train/0",
        frames[0],
        (
            Region(masks[0], ("the box that goes down",), "e0", frame_masks=tuple(masks), may_be_empty=True),
            Region(empty, ("the late box",), "e1", frame_masks=(empty, empty, masks[1], masks[3]), may_be_empty=True),
        ),
        frames=frames,
    )
    phrases = (Phrase(2, 7, 1), Phrase(13, 19, 0))
    turns = (Turn("What is <region1>?", "A box."), Turn("And the image?", "A box and a square.", phrases))
    wordless = tuple(Region(region(number).mask, (), f"r{number}") for number in range(2))
    talk = Record("talks/train/1", image_ref("talk", seed=7), wordless, turns=turns)
    text = Record("texts/train/2", None, (), turns=(Turn("Who are you?", "A model."), Turn("Why?", "Ask me.")))
    nothing = Record("none/train/3", frames[0], (Region(empty, ("the dog",), "n", may_be_empty=True),))
    return [video, talk, text, nothing]
