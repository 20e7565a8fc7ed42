"""What a source yields: an image (a pair of frames, a video) with regions and conversations, nothing decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

# Compressed RLE {"size": [h, w], "counts": str | bytes}, uncompressed RLE {"size": [h, w], "counts": [int, ...]},
# polygons [[x0, y0, x1, y1, ...], ...] in pixels, or a 0/1 bitmap (H, W).
Segmentation: TypeAlias = Mapping[str, object] | Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Member:
    """A file inside of a tar shard. `shard` is a path or an fsspec URL; offset and size are its data's, in bytes.

    sha256: of the data, 32 bytes; None where nobody wrote it down (tars as published).
    """

    shard: str
    name: str
    offset: int
    size: int
    sha256: bytes | None = None

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


@dataclass(frozen=True)
class ImageRef:
    """Where an image's pixels are. `frame` is the video frame number; None for a still image.

    `height` and `width` are the annotation's claim in pixels; reading checks them against the file.
    `stored` is the size (height, width) of the file's pixels where a copy was resized; None: the annotation's.
    `upright`: height and width are those that viewers show, and so are the pixels: turned as an EXIF tag, or the video,
        asks. False: such a tag is an error, as masks could be meant for either view, unless the size tells which.
    """

    path: Path | Member
    height: int
    width: int
    frame: int | None = None
    stored: tuple[int, int] | None = None
    upright: bool = False


@dataclass(frozen=True)
class Region:
    """One object of an image: an undecoded mask and the sentences about it.

    captions:  zero or more sentences; every one is a valid answer to its question.
    questions: empty, or as long as `captions`: what was asked to get each (None: the default question).
    referring: whether the captions single the region out, so that they may serve as phrases for caption → mask
               (False for yes/no answers and the like).
    may_be_empty: whether a mask without a pixel is right: a phrase that means nothing in this image, an object that has
               left the frame. Such a region asks for an empty mask, and is not described.
    frame_masks: of a record with `frames`, the mask in each of them, in their order; `mask` is the first of these.
    """

    mask: Segmentation
    captions: tuple[str, ...]
    id: str
    questions: tuple[str | None, ...] = ()
    referring: bool = True
    may_be_empty: bool = False
    frame_masks: Sequence[Segmentation] = ()


@dataclass(frozen=True)
class Phrase:
    """Characters `start` … `end` − 1 of an answer that name a region, whose mask belongs to the [SEG] behind them.

    region: index into the record's regions, from 0.
    """

    start: int
    end: int
    region: int


@dataclass(frozen=True)
class Turn:
    """A question and its answer in a conversation about a record's image, frames and regions.

    question: `<region3>` in it stands for the record's third region (index 2), and shows its tokens.
    phrases:  of a grounded answer, in the order of their places, without overlap; every one has a mask.
    """

    question: str
    answer: str
    phrases: tuple[Phrase, ...] = ()


@dataclass(frozen=True)
class Record:
    """One image and its regions, a pair of frames that show the same objects in the same order, or a video's frames.

    key: unique and stable over runs, `"<source>/<split>/<id>"`; its first part names the source.
    image1: None for a conversation without an image.
    frames: of a video, every frame that a sample may show, in the order of time; `image1` is the first of them. A
        sample draws some (`frames_per_sample`).
    turns: one conversation; a record may have turns, regions or both.
    """

    key: str
    image1: ImageRef | None
    regions1: tuple[Region, ...]
    image2: ImageRef | None = None
    regions2: tuple[Region, ...] | None = None
    frames: tuple[ImageRef, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def image_refs(self) -> tuple[ImageRef, ...]:
        """Every image and frame once: of a video the frames alone, whose first is image1."""
        refs = (*(self.frames or (self.image1,)), self.image2)
        return tuple(dict.fromkeys(ref for ref in refs if ref is not None))
