"""One drawn scene → its JPEG on disk and a note of everything the annotation files need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from maskcap.data.rle import encode_mask
from maskcap.data.scenes.grammar import Attributes
from maskcap.data.scenes.scene import Split, make_scene

JPEG_QUALITY = 95


@dataclass(frozen=True)
class ObjectNote:
    """An object as annotated: RLE with `str` counts, polygons only where they decode to the very same mask."""

    attributes: Attributes
    rle: dict[str, object]
    polygons: list[list[float]] | None
    bbox: list[float]
    area: int

    @property
    def segmentation(self) -> dict[str, object] | list[list[float]]:
        """The mask as an annotation holds it: polygons where there are any, else the RLE."""
        return self.rle if self.polygons is None else self.polygons


@dataclass(frozen=True)
class SceneNote:
    """A scene as annotated; the first `referred` objects get sentences."""

    image_id: int
    file_name: str
    size: int
    objects: tuple[ObjectNote, ...]
    referred: int


@dataclass(frozen=True)
class Job:
    """What a worker process needs to draw one scene into `folder`."""

    folder: Path
    seed: int
    split: Split
    index: int
    size: int


def draw_and_note(job: Job) -> SceneNote:
    """Draw the scene, write its JPEG, return its note."""
    scene = make_scene(job.seed, job.split, job.index, job.size)
    image_id = job.split.first_id + job.index
    prefix = f"sa_{image_id}" if job.split.dataset == "sa1b" else f"COCO_train2014_{image_id:012d}"
    (job.folder / f"{prefix}.jpg").write_bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(scene.image), quality=JPEG_QUALITY, colorsubsampling="444")
    )
    objects = tuple(
        note_object(attributes, mask) for attributes, mask in zip(scene.composition.objects, scene.masks, strict=True)
    )
    return SceneNote(image_id, f"{prefix}.jpg", job.size, objects, scene.composition.referred)


def note_object(attributes: Attributes, mask: np.ndarray) -> ObjectNote:
    """Annotate one mask, uint8 (H, W) of 0/1; squares are stored as a polygon when that is exact."""
    rle = encode_mask(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = (int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    area = int(mask.sum())
    polygons = None
    if attributes.shape == "square" and area == (x1 - x0) * (y1 - y0):
        polygons = [[float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]
    return ObjectNote(attributes, rle, polygons, [float(v) for v in (x0, y0, x1 - x0, y1 - y0)], area)
