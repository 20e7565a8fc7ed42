"""SA-V: `sav_N.mp4` with masks over time in `sav_N_{manual,auto}.json` (Ravi et al. 2024), captions by Ref-SAV."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

from maskcap.data.record import Record
from maskcap.data.sources.files import layout_folder
from maskcap.data.sources.lenient import LenientSource
from maskcap.data.sources.sav_captions import with_captions
from maskcap.data.sources.sav_files import SPLITS, BadVideo, MaskletCache, Video, find_videos
from maskcap.data.sources.sav_records import frames_record, video_record
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

WHAT = "SA-V (sav_N.mp4 and sav_N_manual.json)"
_KINDS = {"manual": ("manual",), "auto": ("auto",), "both": ("manual", "auto")}


class SAVSource(LenientSource):
    """One record a frame; with `pairs`, two frames `distance` apart and the objects that both show, in one order; with
    `video`, all annotated frames and every object's masks in them.

    root: nested folders are searched; `root/sav` is taken if it exists.
    distance: of a pair, in annotated frames, 1 or more.
    annotations: manual, auto or both. Not every video has both; those without the chosen kind are counted in `skipped`.
    stride: a record (or pair) starts at every `stride`-th annotated frame; a video has every `stride`-th.
    split: a sub-folder `sav_<split>` or `<split>`; without such folders, all is "train".
    captions: Ref-SAV's json, whose phrases become captions. In frames and pairs, objects without one are regions
        without captions. Videos take objects with a phrase alone (all, where no captions are given); the others, and
        the videos that have none, are counted in `skipped`.

    Frames are annotated at 6 a second of 24: annotated frame i is video frame 4·i. An object is absent from a frame if
    its mask is empty or null. Frames (pairs) without an object, and objects that no frame of a video shows, are counted
    in `skipped`; regions of a video may be empty. Keys are `"sav/<split>/<video>/<i>"`, for pairs `"…/<a>-<b>"`, for
    videos `"sav/<split>/<video>"`; region ids `"manual-<masklet id>"` or `"auto-<masklet id>"`.

    Building reads every JSON once and keeps which object is where; masks are read again when a record is asked for,
    with the last videos' kept. A malformed JSON, a JSON without its video, a second copy in another sub-folder and an
    entry of `captions` that is malformed or names a video or an object that is not there are bad records,
    `"sav/<split>/<video>"` (see `LenientSource`): asking for one raises DataError. Building raises it when there are no
    videos, no JSONs, no frame with an object, and when every record is bad.
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
        captions: str | Path | None = None,
        video: bool = False,
    ):
        if annotations not in _KINDS:
            raise ConfigError(f"SAVSource: annotations must be one of {', '.join(_KINDS)}, got {annotations!r}.")
        if distance < 1 or stride < 1:
            raise ConfigError(f"SAVSource: distance and stride must be 1 or more, got {distance} and {stride}.")
        if pairs and video:
            raise ConfigError("SAVSource: pairs and video are two ways to read it; set one of them.")
        self.split, self._gap, self._stride, self._whole = split, distance if pairs else 0, stride, video
        self._captioned = captions is not None
        folder = layout_folder(root, "sav", split, SPLITS, WHAT)
        self._cache = MaskletCache()
        self._videos, unannotated = find_videos(folder, _KINDS[annotations], self._cache)
        if captions is not None:
            self._videos = with_captions(self._videos, Path(captions), folder)
        skipped = Counter({f"videos without {annotations} annotations": unannotated})
        self._index: list[tuple[int, int]] = []  # (video, first annotated frame)
        self.bad = {}
        for number, found in enumerate(self._videos):
            if isinstance(found, BadVideo):
                self.bad[len(self._index)] = found.error
                self._index.append((number, 0))
            else:
                self._index += [(number, start) for start in self._starts(found, skipped)]
        self.skipped = {reason: count for reason, count in skipped.items() if count}
        if not self._index:
            what = "pair of frames" if pairs else "video" if video else "frame"
            raise DataError(
                f"{folder}: no {what} shows an object. Lower distance, or check annotations and captions: "
                f"{self.skipped or 'nothing was left out'}."
            )
        self._settle(folder)
        left_out = self.skipped or "nothing"
        logger.info("SA-V %s: %d records of %d videos; skipped: %s", split, len(self), len(self._videos), left_out)

    @property
    def has_captions(self) -> bool:
        """Whether Ref-SAV's were given."""
        return self._captioned

    @property
    def has_phrases(self) -> bool:
        """Whether Ref-SAV's captions were given: they single their object out."""
        return self._captioned

    def image_of(self, index: int) -> Hashable:
        """The record's video: its frames are too alike to be told apart. Reads nothing."""
        return self._videos[self._index[index][0]].path

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        number, start = self._index[index]
        key = f"sav/{self.split}/{self._videos[number].name}"
        if self._whole or isinstance(self._videos[number], BadVideo):
            return key
        return f"{key}/{start}-{start + self._gap}" if self._gap else f"{key}/{start}"

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of their captions); None for a bad record. Reads nothing."""
        number, start = self._index[index]
        video = self._videos[number]
        if isinstance(video, BadVideo):
            return None
        objects = self._told(video) if self._whole else video.objects(start, start + self._gap)
        return len(objects), sum(len(video.phrases.get(each, "")) for each in objects)

    def annotation_of(self, index: int) -> str:
        """The JSON (or two) of the record's video, for messages."""
        video = self._videos[self._index[index][0]]
        return str(video.path) if isinstance(video, BadVideo) else ", ".join(map(str, video.jsons.values()))

    def __len__(self) -> int:
        return len(self._index)

    def _read(self, index: int) -> Record:
        number, start = self._index[index]
        video, key = self._videos[number], self.key_of(index)
        assert isinstance(video, Video)  # the others are in `bad`
        if not self._whole:
            return frames_record(key, video, self._cache, start, self._gap)
        return video_record(key, video, self._cache, range(0, video.n_frames, self._stride), self._told(video))

    def _told(self, video: Video) -> list[tuple[str, int]]:
        """The objects of a whole video's record: those that a frame of it shows, with a phrase where there are any."""
        shown = video.objects(*range(0, video.n_frames, self._stride), every=False)
        return [each for each in shown if each in video.phrases] if self._captioned else shown

    def _starts(self, video: Video, skipped: Counter[str]) -> list[int]:
        """The annotated frames where a record of this video starts; counts what is left out of it."""
        if not self._whole:
            starts = range(0, video.n_frames - self._gap, self._stride)
            shown = [start for start in starts if video.objects(start, start + self._gap)]
            pairs = f"pairs of frames {self._gap} apart that show no common object"
            skipped[pairs if self._gap else "frames without an object"] += len(starts) - len(shown)
            return shown
        told, every = self._told(video), sum(present.shape[1] for present in video.present.values())
        spoken = len(video.phrases) if self._captioned else every
        skipped["objects without a phrase"] += every - spoken
        skipped["objects that no frame shows"] += spoken - len(told)
        skipped["videos without a phrase" if not spoken else "videos without an object"] += not told
        return [0] if told else []
