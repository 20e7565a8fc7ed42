"""Records of one image or video ↔ the JSON that stands before its file in a tar.

    {"format": 1,
     "files":   [{"name": "000000012.jpg", "size": 345678, "sha256": "…"}],
     "images":  [{"file": 0, "height": 1500, "width": 2250, "stored": [1024, 1024],
                  "regions": [{"id": "7", "mask": RLE or polygons, "captions": […], "questions": […]}, …]}],
     "records": [{"key": "sa1b/train/12", "image1": 0, "regions1": [0, 1, …]}]}

An image is a still, or a frame of a video (`"frame": 16`). A region stands once however many records use it; "stored",
"frame", "captions", "questions", "referring" (false) stand where they say something. Pairs have image2 and regions2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.record import ImageRef, Member, Record, Region, Segmentation
from maskcap.data.rle import encode_mask
from maskcap.data.shards.tar import BLOCK, padded
from maskcap.errors import MaskDecodeError, ShardError

GROUP_FORMAT = 1


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
    images: dict[tuple[Any, ...], dict[str, Any]] = {}
    numbers: dict[tuple[Any, ...], dict[str, int]] = {}  # image → region's JSON → its number
    places = {path: number for number, path in enumerate(files)}

    def add(ref: ImageRef, regions: Sequence[Region], key: str) -> tuple[int, list[int]]:
        """Notes the image once, and its regions; their numbers."""
        image = (places[ref.path], ref.height, ref.width, ref.frame)
        if image not in images:
            images[image] = _image_json(*image, files[ref.path].stored) | {"regions": []}
            numbers[image] = {}
        used = []
        for region in regions:
            entry = _region_json(region, key)
            text = _dumps(entry, f"{key}, region {region.id}")
            if text not in numbers[image]:
                numbers[image][text] = len(numbers[image])
                images[image]["regions"].append(entry)
            used.append(numbers[image][text])
        return list(images).index(image), used

    entries = []
    for record in records:
        entry: dict[str, Any] = {"key": record.key}
        entry["image1"], entry["regions1"] = add(record.image1, record.regions1, record.key)
        if record.image2 is not None and record.regions2 is not None:
            entry["image2"], entry["regions2"] = add(record.image2, record.regions2, record.key)
        entries.append(entry)
    listed = [{"name": file.name, "size": len(file.data), "sha256": file.sha256} for file in files.values()]
    group = {"format": GROUP_FORMAT, "files": listed, "images": list(images.values()), "records": entries}
    return _dumps(group, records[0].key).encode("ascii")


def _image_json(
    file: int, height: int, width: int, frame: int | None, stored: tuple[int, int] | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": file, "height": height, "width": width}
    if frame is not None:
        entry["frame"] = frame
    if stored is not None:
        entry["stored"] = list(stored)
    return entry


def _region_json(region: Region, key: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": region.id, "mask": _plain_mask(region.mask, f"{key}, region {region.id}")}
    if region.captions:
        entry["captions"] = list(region.captions)
    if region.questions:
        entry["questions"] = list(region.questions)
    if not region.referring:
        entry["referring"] = False
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


@dataclass(frozen=True)
class Group:
    """A group that was read: its files, and its records as JSON; `record(slot)` makes one. `where` is for messages."""

    files: tuple[Member, ...]
    content: Mapping[str, Any]
    where: str

    def __len__(self) -> int:
        return len(self.content["records"])

    def record(self, slot: int) -> Record:
        """Record number `slot`. Raises ShardError where the JSON does not hold one."""
        try:
            entry = self.content["records"][slot]
            image1, regions1 = self._image(entry["image1"], entry["regions1"])
            if "image2" not in entry:
                return Record(entry["key"], image1, regions1)
            return Record(entry["key"], image1, regions1, *self._image(entry["image2"], entry["regions2"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ShardError(f"{self.where}: record {slot} is malformed ({error!r}). Shard the data again.") from error

    def _image(self, number: int, regions: Sequence[int]) -> tuple[ImageRef, tuple[Region, ...]]:
        image = self.content["images"][number]
        stored = image.get("stored")
        ref = ImageRef(
            path=self.files[image["file"]],
            height=image["height"],
            width=image["width"],
            frame=image.get("frame"),
            stored=None if stored is None else (stored[0], stored[1]),
        )
        return ref, tuple(_region(image["regions"][i]) for i in regions)


def _region(entry: Mapping[str, Any]) -> Region:
    return Region(
        mask=entry["mask"],
        captions=tuple(entry.get("captions", ())),
        id=entry["id"],
        questions=tuple(entry.get("questions", ())),
        referring=entry.get("referring", True),
    )


def decode_group(data: bytes, member: Member) -> Group:
    """Read a group's JSON, which is `member`; its files lie behind it. Raises ShardError."""
    try:
        content = json.loads(data)
        number = content["format"]
        offset, files = member.offset + padded(member.size) + BLOCK, []
        for file in content["files"]:
            sha256 = None if member.sha256 is None else bytes.fromhex(file["sha256"])
            files.append(Member(member.shard, file["name"], offset, file["size"], sha256))
            offset += padded(file["size"]) + BLOCK
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(f"{member}: not a group of maskcap's ({error!r}). Shard the data again.") from error
    if number != GROUP_FORMAT:
        raise ShardError(f"{member}: format {number}; this maskcap reads format {GROUP_FORMAT}. Shard the data again.")
    return Group(tuple(files), content, str(member))
