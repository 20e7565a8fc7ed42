"""One record for every kind of badness, each made from a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcap.data.record import ImageRef, Record, Region

HEIGHT, WIDTH = 24, 32


def _region(**fields: Any) -> Callable[[Record], Record]:
    """Changes the record's region 1."""
    return lambda r: replace(r, regions1=(r.regions1[0], replace(r.regions1[1], **fields), *r.regions1[2:]))


def _image(write: Callable[[Path], object], ending: str = ".jpg") -> Callable[[Record], Record]:
    """Gives the record another image file."""

    def change(record: Record) -> Record:
        path = Path(record.image1.path).with_suffix(".bad" + ending)  # type: ignore[arg-type]
        write(path)
        return replace(record, image1=replace(record.image1, path=path))

    return change


def _photo(height: int = HEIGHT, width: int = WIDTH, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", **options)
    return data.getvalue()


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path.write_bytes(_photo(exif=exif))


def _cut(path: Path) -> None:
    path.write_bytes(_photo()[:-300])


def _huge_png(path: Path) -> None:
    Image.new("1", (10000, 10000)).save(path)


def _floats(path: Path) -> None:
    Image.new("F", (WIDTH, HEIGHT)).save(path)


def _pair(change: Callable[[Record], Record]) -> Callable[[Record], Record]:
    """A pair whose other frame is that of the changed record."""

    def make(record: Record) -> Record:
        other = change(record)
        return replace(record, image2=other.image1, regions2=other.regions1)

    return make


def _empty_bitmap() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.uint8)


RLE = {"size": [HEIGHT, WIDTH], "counts": [0, 5]}
NAN, INF = float("nan"), float("inf")

# name → (reason, what the message holds, change of a good record)
BADNESS: dict[str, tuple[str, str, Callable[[Record], Record]]] = {
    "missing": ("missing file", "no such file", _image(lambda path: None)),
    "no_image": ("unreadable image", ".bad.jpg", _image(lambda path: path.write_bytes(b"hello" * 100))),
    "empty_file": ("truncated image", "empty", _image(lambda path: path.touch())),
    "cut": ("truncated image", "truncated", _image(_cut)),
    "size": ("wrong size", "30 × 32", _image(lambda path: path.write_bytes(_photo(height=30)))),
    "turned": ("orientation tag", "orientation 3", _image(_turned)),
    "huge": ("image over the pixel limit", "100000000|10000 × 10000|89478485", _image(_huge_png, ".png")),
    "floats": ("unsupported pixels", "mode F", _image(_floats, ".tiff")),
    "video": ("unreadable video", ".bad.mp4", lambda r: replace(
        _image(lambda path: path.write_bytes(b"no video"), ".mp4")(r), image1=ImageRef(
            Path(r.image1.path).with_suffix(".bad.mp4"), HEIGHT, WIDTH, frame=0))),
    "rle": ("malformed RLE", "region r1: bad segmentation: the RLE's runs add up to 5", _region(mask=RLE)),
    "nan": ("malformed polygon", "region r1", _region(mask=[[1, 1, NAN, 1, 5, 5]])),
    "inf": ("malformed polygon", "region r1", _region(mask=[[1, 1, INF, 1, 5, 5]])),
    "bitmap": ("malformed bitmap", "region r1", _region(mask=_empty_bitmap() + 7)),
    "empty": ("empty mask", "region r1", _region(mask=_empty_bitmap())),
    "caption": ("empty caption", "caption 1 of region 'r1'", _region(captions=("a box", " \n"))),
    "questions": ("malformed record", "2 captions and 1 questions", _region(questions=("what?",))),
    "no_regions": ("no regions", "no regions", lambda r: replace(r, regions1=())),
    "half_pair": ("malformed record", "needs both image2 and regions2", lambda r: replace(r, image2=r.image1)),
    "uneven": ("malformed record", "3 regions in the first frame, 2 in the second", lambda r: replace(
        r, image2=r.image1, regions2=r.regions1[:2])),
    "other_image": ("missing file", "other frame", _pair(_image(lambda path: None))),
    "other_mask": ("empty mask", "other frame, region r1", _pair(_region(mask=_empty_bitmap()))),
}  # fmt: skip


@pytest.fixture
def good(tiny_source) -> Callable[[int], Record]:
    """good(i): a record with an image of 24 × 32 and three regions of two captions each."""
    records = tiny_source(30).records
    return lambda number: records[number]


@pytest.fixture
def whole_region() -> Callable[[np.ndarray], Region]:
    """A region from a bitmap."""
    return lambda mask_HW: Region(mask=mask_HW, captions=(), id="m")
