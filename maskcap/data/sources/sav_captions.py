"""Ref-SAV: what one json says of SA-V's objects (Yuan et al. 2025), laid over the videos that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import field, read_json, require
from maskcap.data.sources.json_entries import caption_of
from maskcap.data.sources.sav_files import BadVideo, Video
from maskcap.errors import DataError

_KINDS = ("manual", "auto")
_DIGITS = 9  # of an object's id: as a column's number, more are a mistake


@dataclass(frozen=True)
class _Spoken:
    """What the json says of one video: phrases of columns of its `kind` of annotation; where: for messages."""

    video: Path
    kind: str
    phrases: dict[int, str]
    where: str


def with_captions(videos: Sequence[Video | BadVideo], path: Path, folder: Path) -> list[Video | BadVideo]:
    """The videos with their phrases, by name.

    Videos that the json does not name stay as they are. A malformed entry, an object that is no column of its video's
    annotation or of an annotation that is not read makes its video a BadVideo, and so does an entry whose video is not
    in `folder`. Raises DataError for a missing or unreadable json, and for one that is no object of videos.
    """
    content = read_json(path)
    require(isinstance(content, dict) and bool(content), path, "expected an object of videos that is not empty")
    found = {video.name: video for video in videos if isinstance(video, Video)}
    bad = {video.name for video in videos if isinstance(video, BadVideo)}
    lost: list[Video | BadVideo] = []
    named: dict[str, object] = {}
    kinds = {kind for about in content.values() if (kind := _kind(about)) is not None}
    for entry, about in content.items():
        where = f"{path}, video {entry!r}"
        stem = _stem(entry, about)
        video = found.get(stem)
        try:
            require(stem not in named, where, f"{stem} is also that of {named.get(stem)!r}. Keep one", "duplicate key")
            named[stem] = entry
            spoken = _read_entry(about, where)
            if video is None and stem not in bad:
                message = f"{where}: the video {spoken.video} is not in {folder}. Fetch it, or remove the entry."
                raise DataError(message, "missing file")
            if video is not None:
                found[stem] = replace(video, phrases=_phrases(video, spoken, kinds))
        except DataError as error:
            found.pop(stem, None)
            lost.append(BadVideo(stem, folder / f"{stem}.mp4" if video is None else video.path, error))
    rest = [video for video in videos if isinstance(video, BadVideo)]
    return sorted([*found.values(), *rest, *lost], key=lambda video: video.name)


def _stem(entry: str, about: Any) -> str:
    """The video's name, by its file where the entry gives one."""
    file = about.get("video_path") if isinstance(about, dict) else None
    return Path(file if isinstance(file, str) else entry).stem


def _kind(about: Any) -> str | None:
    """The kind of annotation that an entry is of, by its file's name; None: it does not say."""
    file = about.get("anno_path") if isinstance(about, dict) else None
    return next((kind for kind in _KINDS if isinstance(file, str) and Path(file).stem.endswith(f"_{kind}")), None)


def _read_entry(about: Any, where: str) -> _Spoken:
    paths = [field(about, name, where) for name in ("video_path", "anno_path")]
    require(all(isinstance(each, str) for each in paths), where, "'video_path' and 'anno_path' must be file names")
    video, annotation = (Path(each) for each in paths)
    kind = annotation.stem.removeprefix(f"{video.stem}_")
    problem = f"'anno_path' must be {video.stem}_manual.json or {video.stem}_auto.json, not {annotation.name!r}"
    require(kind in _KINDS, where, problem)
    objects = field(about, "objects", where)
    require(isinstance(objects, dict), where, "'objects' must be an object of object ids")
    phrases: dict[int, str] = {}
    columns: set[int] = set()
    for number, said in objects.items():
        of = f"{where}, object {number[:40]!r}"
        require(isinstance(said, dict), of, "expected an object with 'formated'")
        whole = number.isdecimal() and len(number) <= _DIGITS
        require(whole, of, "an object's id is its column in 'masklet', a whole number")
        require(int(number) not in columns, of, f"column {int(number)} is named twice. Keep one", "duplicate key")
        columns.add(int(number))
        if said.get("formated") is not None:
            phrases[int(number)] = caption_of(said["formated"], "'formated'", of)
    return _Spoken(video, kind, phrases, where)


def _phrases(video: Video, spoken: _Spoken, kinds: set[str]) -> dict[tuple[str, int], str]:
    """kinds: those that the whole json is of."""
    kind, where = spoken.kind, spoken.where
    if kind not in video.present:
        read = " and ".join(video.present)
        setting = kind if len(kinds) == 1 else "both"
        message = f"{where}: its phrases are of {kind} annotations, but {read} is read. Set annotations={setting}."
        raise DataError(message)
    columns = video.present[kind].shape[1]
    unknown = [number for number in spoken.phrases if number >= columns]
    problem = f"no object {', '.join(map(str, unknown))}: {video.jsons[kind]} has {columns}, numbered from 0"
    require(not unknown, where, problem, "unknown object")
    return {(kind, number): phrase for number, phrase in spoken.phrases.items()}
