"""What a source yields: an image (or a pair of frames) and its regions, nothing decoded."""

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
    """

    path: Path | Member
    height: int
    width: int
    frame: int | None = None
    stored: tuple[int, int] | None = None


@dataclass(frozen=True)
class Region:
    """One object of an image: an undecoded mask and the sentences about it.

    captions:  zero or more sentences; every one is a valid answer to its question.
    questions: empty, or as long as `captions`: what was asked to get each (None: the default question).
    referring: whether the captions single the region out, so that they may serve as phrases for caption → mask
               (False for yes/no answers and the like).
    """

    mask: Segmentation
    captions: tuple[str, ...]
    id: str
    questions: tuple[str | None, ...] = ()
    referring: bool = True


@dataclass(frozen=True)
class Record:
    """One image and its regions, or a pair of frames that show the same objects in the same order.

    key: unique and stable over runs, `"<source>/<split>/<id>"`; its first part names the source.
    """

    key: str
    image1: ImageRef
    regions1: tuple[Region, ...]
    image2: ImageRef | None = None
    regions2: tuple[Region, ...] | None = None
