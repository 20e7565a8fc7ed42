"""Records of one image or video, read from the JSON that stands before its file in a tar; `encode.py` writes it.

    {"format": 1,
     "files":   [{"name": "000000012.jpg", "size": 345678, "sha256": "…"}],
     "images":  [{"file": 0, "height": 1500, "width": 2250, "stored": [1024, 1024],
                  "regions": [{"id": "7", "mask": RLE or polygons, "captions": […], "questions": […]}, …]}],
     "records": [{"key": "sa1b/train/12", "image1": 0, "regions1": [0, 1, …]}]}

An image is a still, or a frame of a video (`"frame": 16`). A region stands once however many records use it; "stored",
"frame", "captions", "questions", "referring" (false) stand where they say something. Pairs have image2 and regions2.

Format 2 has more, and is written only where a record needs it, so that whoever reads format 1 reads everything else:

     "masks":   [RLE or polygons, …],
     regions:   {…, "may_be_empty": true, "frame_masks": [0, 1, …]}     numbers in "masks"; "mask" is the first of them
     images:    {…, "upright": true}                                    height and width are as viewers show it
     records:   {…, "frames": [1, {"file": 0, "height": 720, "width": 1280, "first": 0, "count": 300, "step": 4}, …],
                 "turns": [{"question": "…", "answer": "…", "phrases": [[start, end, region], …]}, …]}

Frames are numbers in "images"; those that lie evenly in one file are one entry: the first, how many, how far apart
("step", where it is not 1), and what else an image says. Records without an image have no "image1" and no "regions1".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskcap.data.record import ImageRef, Member, Phrase, Record, Region, Turn
from maskcap.data.shards.runs import frames_of
from maskcap.data.shards.tar import BLOCK, padded
from maskcap.errors import ShardError

GROUP_FORMATS = (1, 2)


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
            image1 = image2 = None
            regions1: tuple[Region, ...] = ()
            regions2 = None
            if "image1" in entry:
                image1, regions1 = self._image(entry["image1"]), self._regions(entry["image1"], entry["regions1"])
            if "image2" in entry:
                image2, regions2 = self._image(entry["image2"]), self._regions(entry["image2"], entry["regions2"])
            frames = tuple(ref for each in entry.get("frames", ()) for ref in self._frames(each))
            turns = tuple(_turn(turn) for turn in entry.get("turns", ()))
            return Record(entry["key"], image1, regions1, image2, regions2, frames, turns)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ShardError(f"{self.where}: record {slot} is malformed ({error!r}). Shard the data again.") from error

    def _image(self, number: int) -> ImageRef:
        image = self.content["images"][number]
        return self._refs(image, (image.get("frame"),))[0]

    def _frames(self, entry: int | Mapping[str, Any]) -> Sequence[ImageRef]:
        return (self._image(entry),) if isinstance(entry, int) else self._refs(entry, frames_of(entry))

    def _refs(self, image: Mapping[str, Any], frames: Iterable[int | None]) -> list[ImageRef]:
        path, height, width = self.files[image["file"]], image["height"], image["width"]
        stored = (image["stored"][0], image["stored"][1]) if "stored" in image else None
        upright = image.get("upright", False)
        return [ImageRef(path, height, width, frame, stored, upright) for frame in frames]

    def _regions(self, image: int, numbers: Sequence[int]) -> tuple[Region, ...]:
        listed = self.content["images"][image]["regions"]
        return tuple(self._region(listed[number]) for number in numbers)

    def _region(self, entry: Mapping[str, Any]) -> Region:
        masks = tuple(self.content["masks"][number] for number in entry.get("frame_masks", ()))
        return Region(
            mask=entry["mask"] if "mask" in entry else masks[0],
            captions=tuple(entry.get("captions", ())),
            id=entry["id"],
            questions=tuple(entry.get("questions", ())),
            referring=entry.get("referring", True),
            may_be_empty=entry.get("may_be_empty", False),
            frame_masks=masks,
        )


def _turn(entry: Mapping[str, Any]) -> Turn:
    return Turn(entry["question"], entry["answer"], tuple(Phrase(*phrase) for phrase in entry.get("phrases", ())))


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
    if number not in GROUP_FORMATS:
        raise ShardError(f"{member}: format {number}; this maskcap reads 1 and 2. Shard the data again.")
    return Group(tuple(files), content, str(member))
