"""SA-V: `sav_N.mp4` with objects' masks over time in `sav_N_{manual,auto}.json`, no captions (Ravi et al. 2024)."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import layout_folder
from maskcap.data.sources.lenient import LenientSource
from maskcap.data.sources.sav_files import ANNOTATED_EVERY, SPLITS, BadVideo, MaskletCache, Masklets, Video, find_videos
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

WHAT = "SA-V (sav_N.mp4 and sav_N_manual.json)"
_KINDS = {"manual": ("manual",), "auto": ("auto",), "both": ("manual", "auto")}


class SAVSource(LenientSource):
    """One record a frame; with `pairs`, two frames `distance` apart and the objects that both show, in one order.

    root: nested folders are searched; `root/sav` is taken if it exists.
    distance: of a pair, in annotated frames, 1 or more.
    annotations: manual, auto or both. Not every video has both; those without the chosen kind are counted in `skipped`.
    stride: a record (or pair) starts at every `stride`-th annotated frame.
    split: a sub-folder `sav_<split>` or `<split>`; without such folders, all is "train".

    Frames are annotated at 6 a second of 24: annotated frame i is video frame 4·i. An object is absent from a frame if
    its mask is empty or null; frames (pairs) without an object are counted in `skipped`. Keys are
    `"sav/<split>/<video>/<i>"`, for pairs `"…/<a>-<b>"`; region ids `"manual-<masklet id>"` or `"auto-<masklet id>"`.

    Building reads every JSON once and keeps which object is where; masks are read again when a record is asked for,
    with the last videos' kept. A malformed JSON, a JSON without its video and a second copy in another sub-folder are
    bad records, `"sav/<split>/<video>"` (see `LenientSource`): asking for one raises DataError. Building raises it when
    there are no videos, no JSONs, no frame with an object, and when every record is bad.
    """

    name = "sav"

    def __init__(
        self,
        root: str | Path,
        pairs: bool = False,
        *,
        distance: int = 4,
        annotations: str = "manual",
        stride: int = 1,
        split: str = "train",
    ):
        if annotations not in _KINDS:
            raise ConfigError(f"SAVSource: annotations must be one of {', '.join(_KINDS)}, got {annotations!r}.")
        if distance < 1 or stride < 1:
            raise ConfigError(f"SAVSource: distance and stride must be 1 or more, got {distance} and {stride}.")
        self.split, self._gap = split, distance if pairs else 0
        folder = layout_folder(root, "sav", split, SPLITS, WHAT)
        self._cache = MaskletCache()
        self._videos, unannotated = find_videos(folder, _KINDS[annotations], self._cache)
        self._index: list[tuple[int, int]] = []  # (video, first annotated frame)
        self.bad = {}
        empty = 0
        for number, video in enumerate(self._videos):
            if isinstance(video, BadVideo):
                self.bad[len(self._index)] = video.error
                self._index.append((number, 0))
                continue
            starts = range(0, video.n_frames - self._gap, stride)
            shown = [start for start in starts if video.objects(start, start + self._gap)]
            self._index += [(number, start) for start in shown]
            empty += len(starts) - len(shown)
        what = f"pairs of frames {distance} apart that show no common object" if pairs else "frames without an object"
        counts = {f"videos without {annotations} annotations": unannotated, what: empty}
        self.skipped = {reason: count for reason, count in counts.items() if count}
        if not self._index:
            raise DataError(
                f"{folder}: no {'pair of frames' if pairs else 'frame'} shows an object. "
                "Lower distance, or check annotations."
            )
        self._settle(folder)
        logger.info(
            "SA-V %s: %d records of %d videos; skipped: %s",
            split,
            len(self),
            len(self._videos),
            self.skipped or "nothing",
        )

    @property
    def has_captions(self) -> bool:
        """Never: the set has masks alone."""
        return False

    @property
    def has_phrases(self) -> bool:
        """Never: the set has masks alone."""
        return False

    def image_of(self, index: int) -> Hashable:
        """The record's video: its frames are too alike to be told apart. Reads nothing."""
        return self._videos[self._index[index][0]].path

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        number, start = self._index[index]
        key = f"sav/{self.split}/{self._videos[number].name}"
        if isinstance(self._videos[number], BadVideo):
            return key
        return f"{key}/{start}-{start + self._gap}" if self._gap else f"{key}/{start}"

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, 0); None for a bad record. Reads nothing."""
        number, start = self._index[index]
        video = self._videos[number]
        return None if isinstance(video, BadVideo) else (len(video.objects(start, start + self._gap)), 0)

    def annotation_of(self, index: int) -> str:
        """The JSON (or two) of the record's video, for messages."""
        video = self._videos[self._index[index][0]]
        return str(video.path) if isinstance(video, BadVideo) else ", ".join(map(str, video.jsons.values()))

    def __len__(self) -> int:
        return len(self._index)

    def _read(self, index: int) -> Record:
        number, start = self._index[index]
        video, end = self._videos[number], start + self._gap
        assert isinstance(video, Video)  # the others are in `bad`
        objects = video.objects(start, end)
        masklets = {path: self._cache.read(path) for path in video.jsons.values()}
        key = self.key_of(index)
        if not self._gap:
            return Record(key, _frame(video, start), _regions(video, masklets, objects, start))
        regions1, regions2 = (_regions(video, masklets, objects, frame) for frame in (start, end))
        return Record(key, _frame(video, start), regions1, _frame(video, end), regions2)


def _frame(video: Video, annotated: int) -> ImageRef:
    return ImageRef(video.path, video.height, video.width, frame=ANNOTATED_EVERY * annotated)


def _regions(
    video: Video, masklets: dict[Path, Masklets], objects: list[tuple[str, int]], frame: int
) -> tuple[Region, ...]:
    regions = []
    for kind, column in objects:
        read = masklets[video.jsons[kind]]
        mask: Any = read.masks[frame][column]
        regions.append(Region(mask=mask, captions=(), id=f"{kind}-{read.ids[column]}"))
    return tuple(regions)
