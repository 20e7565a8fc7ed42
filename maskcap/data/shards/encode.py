"""Records of one image or video → the JSON that stands before its file in a tar; see `records.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.record import ImageRef, Member, Record, Region, Segmentation, Turn
from maskcap.data.rle import encode_mask
from maskcap.data.shards.records import GROUP_FORMATS
from maskcap.data.shards.runs import runs_of, write_run
from maskcap.errors import MaskDecodeError


@dataclass(frozen=True)
class StoredFile:
    """A file as it goes into a tar. `stored` is its size in pixels (height, width) where it is not the image's."""

    name: str
    data: bytes
    sha256: str
    stored: tuple[int, int] | None = None


def encode_group(records: Sequence[Record], files: Mapping[Path | Member, StoredFile]) -> bytes:
    """The JSON of a group of records, ASCII; `files` has every path that they use, in the order of the tar.

    Bitmaps become RLE; everything else reads back as it was. Raises MaskDecodeError for a mask that JSON cannot hold.
    """
    tables = _Tables(files)
    entries = [_record_json(record, tables) for record in records]
    listed = [{"name": file.name, "size": len(file.data), "sha256": file.sha256} for file in files.values()]
    number = GROUP_FORMATS[any(map(_needs_format_2, records))]
    group = {"format": number, "files": listed, "images": list(tables.images.values()), "records": entries}
    if tables.masks:
        group["masks"] = tables.masks
    return _dumps(group, records[0].key).encode("ascii")


class _Tables:
    """The images of a group with their regions, and the masks in frames: each once, known by its number."""

    def __init__(self, files: Mapping[Path | Member, StoredFile]) -> None:
        self.images: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.masks: list[Any] = []
        self._files = files
        self._places = {path: number for number, path in enumerate(files)}
        self._images: dict[tuple[Any, ...], int] = {}
        self._regions: dict[tuple[Any, ...], dict[str, int]] = {}  # image → region's JSON → its number
        self._masks: dict[str, int] = {}

    def image(self, ref: ImageRef) -> int:
        """The image's number."""
        image = self._name(ref)
        if image not in self.images:
            entry = self._image_json(ref)
            self.images[image] = entry | {"regions": []}
            self._images[image], self._regions[image] = len(self._images), {}
        return self._images[image]

    def frames(self, refs: Sequence[ImageRef]) -> list[int | dict[str, Any]]:
        """A video's frames: runs of one file in one entry each, others by the image's number."""
        return [
            write_run(run, self._image_json(run[0])) if len(run) > 1 else self.image(run[0]) for run in runs_of(refs)
        ]

    def regions(self, ref: ImageRef, regions: Sequence[Region], key: str) -> list[int]:
        """The numbers of regions of an image that has one."""
        image, used = self._name(ref), []
        numbers, listed = self._regions[image], self.images[image]["regions"]
        for region in regions:
            entry = _region_json(region, key)
            if region.frame_masks:
                where = f"{key}, region {region.id}"
                masks = [_plain_mask(mask, where) for mask in region.frame_masks]
                entry["frame_masks"] = [self._mask(mask, where) for mask in masks]
                if entry["mask"] == masks[0]:
                    del entry["mask"]
            text = _dumps(entry, f"{key}, region {region.id}")
            if text not in numbers:
                numbers[text] = len(numbers)
                listed.append(entry)
            used.append(numbers[text])
        return used

    def _mask(self, mask: Any, where: str) -> int:
        text = _dumps(mask, where)
        if text not in self._masks:
            self._masks[text] = len(self._masks)
            self.masks.append(mask)
        return self._masks[text]

    def _name(self, ref: ImageRef) -> tuple[Any, ...]:
        return self._places[ref.path], ref.height, ref.width, ref.frame, ref.upright

    def _image_json(self, ref: ImageRef) -> dict[str, Any]:
        entry: dict[str, Any] = {"file": self._places[ref.path], "height": ref.height, "width": ref.width}
        if ref.frame is not None:
            entry["frame"] = ref.frame
        stored = self._files[ref.path].stored
        if stored is not None:
            entry["stored"] = list(stored)
        if ref.upright:
            entry["upright"] = True
        return entry


def _needs_format_2(record: Record) -> bool:
    """Whether a reader of format 1 would misread the record."""
    if record.frames or record.turns or record.image1 is None:
        return True
    refs, regions = record.image_refs, (*record.regions1, *(record.regions2 or ()))
    return any(ref.upright for ref in refs) or any(region.may_be_empty for region in regions)


def _record_json(record: Record, tables: _Tables) -> dict[str, Any]:
    entry: dict[str, Any] = {"key": record.key}
    if record.image1 is not None:
        entry["image1"] = tables.image(record.image1)
        entry["regions1"] = tables.regions(record.image1, record.regions1, record.key)
    if record.image2 is not None and record.regions2 is not None:
        entry["image2"] = tables.image(record.image2)
        entry["regions2"] = tables.regions(record.image2, record.regions2, record.key)
    if record.frames:
        entry["frames"] = tables.frames(record.frames)
    if record.turns:
        entry["turns"] = [_turn_json(turn) for turn in record.turns]
    return entry


def _turn_json(turn: Turn) -> dict[str, Any]:
    entry: dict[str, Any] = {"question": turn.question, "answer": turn.answer}
    if turn.phrases:
        entry["phrases"] = [[phrase.start, phrase.end, phrase.region] for phrase in turn.phrases]
    return entry


def _region_json(region: Region, key: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": region.id, "mask": _plain_mask(region.mask, f"{key}, region {region.id}")}
    if region.captions:
        entry["captions"] = list(region.captions)
    if region.questions:
        entry["questions"] = list(region.questions)
    if not region.referring:
        entry["referring"] = False
    if region.may_be_empty:
        entry["may_be_empty"] = True
    return entry


def _plain_mask(mask: Segmentation, where: str) -> Any:
    if isinstance(mask, np.ndarray):
        try:
            return encode_mask(mask)
        except MaskDecodeError as error:
            raise MaskDecodeError(f"{where}: {error}", error.reason) from error
    return _plain(mask)


def _plain(value: Any) -> Any:
    """Arrays, tuples and bytes as what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _dumps(value: Any, where: str) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{where}: bad segmentation: it cannot be written as JSON ({error})."
        raise MaskDecodeError(message, "malformed mask") from error
