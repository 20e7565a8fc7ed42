"""SA-V's files: finding videos, reading masklets, and which object is in which annotated frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as field_of
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.rle import rle_area
from maskcap.data.sources.files import LAYOUT_HELP, field, integer, list_of, read_json, require
from maskcap.errors import DataError, MaskDecodeError

SPLITS = ("train", "val", "test")
ANNOTATED_EVERY = 4  # video frames: 24 a second, annotated at 6


@dataclass(frozen=True)
class Masklets:
    """One JSON: `masks[annotated frame][column]` is an RLE or None; `ids[column]` the masklet's id."""

    masks: list[list[Any]]
    ids: list[Any]
    height: int
    width: int


@dataclass(frozen=True)
class Video:
    """One video. `jsons` and `present` (bool, annotated frames × columns) by kind: manual, auto.

    phrases: what Ref-SAV says of an object, by (kind, column).
    """

    name: str
    path: Path
    height: int
    width: int
    n_frames: int
    jsons: dict[str, Path]
    present: dict[str, np.ndarray]
    phrases: Mapping[tuple[str, int], str] = field_of(default_factory=dict)

    def objects(self, *frames: int, every: bool = True) -> list[tuple[str, int]]:
        """(kind, column) of the objects that all (not `every`: any) of these annotated frames show, manual first."""
        of = np.all if every else np.any
        shown = {kind: np.flatnonzero(of(present[list(frames)], axis=0)) for kind, present in self.present.items()}
        return [(kind, int(column)) for kind, columns in shown.items() for column in columns]


@dataclass(frozen=True)
class BadVideo:
    """A video (or the lone JSON of one) that cannot be used, and why. path: of the file that is to blame."""

    name: str
    path: Path
    error: DataError


class MaskletCache:
    """Parsed JSONs of the last videos, up to `limit` bytes of file: records are often asked for video by video."""

    def __init__(self, limit: int = 2**26):
        self._limit = limit
        self._kept: OrderedDict[Path, tuple[int, Masklets]] = OrderedDict()

    def read(self, path: Path) -> Masklets:
        """The JSON's masklets. Raises DataError."""
        if path not in self._kept:
            masklets = _read_masklets(path)
            self._kept[path] = (path.stat().st_size, masklets)
            while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
            return masklets
        self._kept.move_to_end(path)
        return self._kept[path][1]

    def __getstate__(self) -> dict[str, Any]:
        """A worker process starts with an empty cache."""
        return {"_limit": self._limit, "_kept": OrderedDict()}


def find_videos(folder: Path, kinds: Sequence[str], cache: MaskletCache) -> tuple[list[Video | BadVideo], int]:
    """Videos below a folder that have a JSON of those kinds, by name, and how many have none.

    Second copies of a video or JSON, JSONs without their video and videos whose JSON is malformed come as BadVideo.
    Raises DataError when there are no videos, or none has a JSON.
    """
    videos, jsons = _list_files(folder)
    if not videos:
        message = f"{folder}: no sav_N.mp4 in it or its sub-folders. Set the right folder; {LAYOUT_HELP}."
        raise DataError(message, "missing file")
    found: list[Video | BadVideo] = []
    unannotated = 0
    for name, (path, *copies) in videos.items():
        of_kind = {kind: jsons[f"{name}_{kind}"] for kind in kinds if f"{name}_{kind}" in jsons}
        if not of_kind:
            unannotated += 1
            continue
        used = {kind: _beside(path, paths) for kind, paths in of_kind.items()}
        found.append(_describe(name, path, used, cache))
        found += [_second_copy(name, path, copy) for copy in copies]
        folders = {copy.parent for copy in copies}  # their JSONs are copies with them
        found += [
            _second_copy(name, used[kind], other)
            for kind, paths in of_kind.items()
            for other in paths
            if other != used[kind] and other.parent not in folders
        ]
    found += [_lone(stem, paths[0]) for stem, paths in jsons.items() if stem.rpartition("_")[0] not in videos]
    if not found:
        wanted = " or ".join(f"sav_N_{kind}.json" for kind in kinds)
        message = f"{folder}: none of {len(videos)} videos has {wanted}. Fetch them, or change annotations."
        raise DataError(message, "missing file")
    return sorted(found, key=lambda video: video.name), unannotated  # second copies stay behind what is used


def _list_files(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Stem → its copies, of the videos and of the JSONs, all sorted."""
    files: dict[str, dict[str, list[Path]]] = {".mp4": {}, ".json": {}}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, ending = os.path.splitext(name)
            if name.startswith("sav_") and ending in files:
                files[ending].setdefault(stem, []).append(Path(parent, name))
    videos, jsons = ({stem: sorted(of[stem]) for stem in sorted(of)} for of in files.values())
    return videos, jsons


def _beside(video: Path, copies: list[Path]) -> Path:
    """The copy in the video's own folder, else the first."""
    return next((copy for copy in copies if copy.parent == video.parent), copies[0])


def _second_copy(name: str, used: Path, other: Path) -> BadVideo:
    message = f"{other}: {other.name} is in several sub-folders; {used} is the one in use. Keep one of them."
    return BadVideo(name, other, DataError(message, "duplicate key"))


def _lone(stem: str, path: Path) -> BadVideo:
    message = f"{path}: a JSON without its video. Fetch the video, or remove the JSON."
    return BadVideo(stem.rpartition("_")[0], path, DataError(message, "missing file"))


def _describe(name: str, path: Path, jsons: dict[str, Path], cache: MaskletCache) -> Video | BadVideo:
    try:
        return _read_video(name, path, jsons, cache)
    except DataError as error:
        return BadVideo(name, path, error)


def _read_video(name: str, path: Path, jsons: dict[str, Path], cache: MaskletCache) -> Video:
    read = {kind: cache.read(json_path) for kind, json_path in jsons.items()}
    sizes = {(masklets.height, masklets.width) for masklets in read.values()}
    require(len(sizes) == 1, path, f"its manual and auto JSONs disagree on the video's size: {sorted(sizes)}")
    height, width = sizes.pop()
    n_frames = max(len(masklets.masks) for masklets in read.values())
    require(n_frames > 0, path, "its JSON annotates no frame")
    present = {kind: _presence(masklets, n_frames) for kind, masklets in read.items()}
    return Video(name, path, height, width, n_frames, jsons, present)


def _read_masklets(path: Path) -> Masklets:
    content = read_json(path)
    masks = list_of(list, field(content, "masklet", path), "'masklet'", path)
    ids = field(content, "masklet_id", path)
    require(isinstance(ids, list), path, "'masklet_id' must be a list")
    for i, row in enumerate(masks):
        ok = isinstance(row, list) and len(row) == len(ids) and all(rle is None or isinstance(rle, dict) for rle in row)
        require(ok, path, f"'masklet' frame {i} must hold {len(ids)} RLEs, one an id. Fetch the file again")
    sides = [integer(field(content, name, path), name, path) for name in ("video_height", "video_width")]
    return Masklets(masks, ids, *sides)


def _presence(masklets: Masklets, n_frames: int) -> np.ndarray:
    """bool (n_frames, columns); frames that only the other JSON annotates show none of these objects."""
    table = np.zeros((n_frames, len(masklets.ids)), dtype=bool)
    for i, row in enumerate(masklets.masks):
        table[i] = [_is_present(rle, masklets.height, masklets.width) for rle in row]
    return table


def _is_present(rle: Any, height: int, width: int) -> bool:
    if rle is None:
        return False
    try:
        return rle_area(rle, height, width) > 0
    except MaskDecodeError:
        return True  # a malformed mask is an error when its record is read, which names the record
