"""ReVOS, MeVIS and Ref-YouTube-VOS: `meta_expressions.json`, `mask_dict.json` (or a pickle), frames as JPEG files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import image_size
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.rle_union import unite_over_frames
from maskcap.data.sources.files import list_of, read_json, require, some
from maskcap.data.sources.lenient import joined
from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.data.sources.planned import PlannedSource
from maskcap.data.sources.video_layout import VideoLayout, find_layout
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class ReferringVideoSource(PlannedSource):
    """One record a video: all its frames, and a region for each expression, with one mask for each frame.

    root: the folder of all data sets or the data set's own; see `find_layout` for where its files may be.
    dataset: revos, mevis or ref_youtube_vos. split: as published (train; valid of ReVOS, valid_u of MeVIS).
    expressions, masks, images: the two files and the folder of the videos' folders; None: where `find_layout` finds it.

    An expression means the annotations of its `anno_id`, united in every frame, or none: then all its masks are empty.
    Ref-YouTube-VOS has one annotation an expression, numbered from 0 in the order of videos, then of sorted expression
    ids. Frames are sorted by name, and an annotation's masks are in that order.

    Keys are `"<dataset>/<split>/<video>"`, region ids the expressions'. A record with an unknown annotation, masks of
    more or fewer frames than the video's, an empty expression or a missing frame is bad (see `LenientSource`): asking
    for it raises DataError, and so do masks of another size than the first frame's. Videos without expressions are
    counted in `skipped`. The masks stay in memory as they are in their file, united when a sample decodes them.

    Raises DataError for missing or unreadable files, a pickle that holds anything but plain values, no video with
    expressions, and when every record is bad; ConfigError for another data set.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: str = "revos",
        split: str = "train",
        *,
        expressions: str | Path | None = None,
        masks: str | Path | None = None,
        images: str | Path | None = None,
    ):
        self.name, self.split = dataset, split
        layout = find_layout(root, dataset, split, expressions, masks, images)
        videos = _table(read_json(layout.expressions), "videos", layout.expressions)
        drafts = list(_drafts(videos, layout, numbered=dataset == "ref_youtube_vos"))
        kept = [draft for draft in drafts if draft.expressions]
        self.skipped = {"videos without expressions": len(drafts) - len(kept)} if len(kept) < len(drafts) else {}
        require(bool(kept), layout.expressions, "no video has an expression")
        found = _read_masks(layout.masks)
        super().__init__(
            [(f"{dataset}/{split}/{d.name}", _planned(d, found, layout)) for d in kept], layout.expressions
        )
        logger.info("%s %s: %d videos; skipped: %s", dataset, split, len(self), self.skipped or "nothing")

    @property
    def has_captions(self) -> bool:
        """Always: every region has its expression."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Always: expressions are there to single their objects out."""
        return True


@dataclass(frozen=True)
class _Draft:
    """A video as its file has it; annotations: expression id → annotation ids where they are numbered, else None."""

    name: str
    frames: Any
    expressions: Mapping[str, Any]
    annotations: Mapping[str, list[Any]] | None


@dataclass(frozen=True)
class _Plan:
    """A video's folder, frames and expressions: (id, text, masks of each annotation over the frames)."""

    image: Path
    frames: Sequence[str]
    expressions: Sequence[tuple[str, str, Sequence[Sequence[Any]]]]

    @property
    def text_size(self) -> tuple[int, int]:
        """(number of expressions, characters of all of them)."""
        return len(self.expressions), sum(len(text) for _, text, _ in self.expressions)

    def record(self, key: str) -> Record:
        """Reads the first frame's header. Raises ImageDecodeError, and DataError for masks of another size."""
        paths = [self.image / f"{name}.jpg" for name in self.frames]
        size = image_size(paths[0], f"{key}: {paths[0]}")
        regions = []
        for number, text, columns in self.expressions:
            where = f"{key}, expression {number}"
            for column in columns:
                _check_size(next((rle for rle in column if rle is not None), None), size, where)
            masks = unite_over_frames(columns, size, self.frames, where)
            regions.append(Region(masks[0], (text,), number, may_be_empty=True, frame_masks=masks))
        frames = tuple(ImageRef(path, *size) for path in paths)
        return Record(key, frames[0], tuple(regions), frames=frames)


def _table(content: Any, name: str, path: Path) -> dict[str, Any]:
    table = content.get(name) if isinstance(content, dict) else None
    require(isinstance(table, dict) and bool(table), path, f"expected an object with {name!r}, an object by name")
    assert isinstance(table, dict)
    return table


def _drafts(videos: Mapping[str, Any], layout: VideoLayout, numbered: bool) -> Iterator[_Draft]:
    count = 0
    for name, video in videos.items():
        expressions = video.get("expressions") if isinstance(video, dict) else None
        if not isinstance(expressions, dict):
            # Not one bad record: of a numbered set, every later video would get the masks of others.
            raise DataError(f"{layout.expressions}: video {name!r} has no 'expressions', an object by id. Correct it.")
        annotations = {number: [count + i] for i, number in enumerate(sorted(expressions))} if numbered else None
        count += len(expressions)
        yield _Draft(name, video.get("frames"), expressions, annotations)


def _read_masks(path: Path) -> dict[str, Any]:
    """Annotation id as text → masks over the frames, unchecked."""
    masks = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    require(isinstance(masks, dict), path, "expected an object: annotation id → its masks over the frames")
    return {str(number): columns for number, columns in masks.items()}


def _planned(draft: _Draft, masks: Mapping[str, Any], layout: VideoLayout) -> _Plan | DataError:
    """A video's plan, or one error with everything that is wrong with it."""
    where = f"{layout.expressions}, video {draft.name!r}"
    problems: list[DataError] = []
    folder = layout.folder_of(draft.name)
    frames: list[str] = []
    try:
        frames = sorted(list_of(str, draft.frames, "'frames'", where))
        require(bool(frames), where, "the video has no frames")
        _check_frames(frames, folder, where)
    except DataError as error:
        problems.append(error)
    expressions = []
    for number, expression in draft.expressions.items():
        of = f"{where}, expression {number!r}"
        try:
            text = expression.get("exp") if isinstance(expression, dict) else None
            require(isinstance(text, str) and bool(text.strip()), of, "its 'exp' is no text or empty", "empty caption")
            ids = draft.annotations[number] if draft.annotations else expression.get("anno_id")
            require(isinstance(ids, list), of, "'anno_id' must be a list of annotation ids")
            columns = [_column(each, masks, len(frames), layout.masks, of) for each in ids or ()]
            expressions.append((number, text, columns))
        except DataError as error:
            problems.append(error)
    return joined(problems) if problems else _Plan(folder, frames, expressions)


def _check_frames(frames: Sequence[str], folder: Path, where: str) -> None:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [f"{name}.jpg" for name in frames if f"{name}.jpg" not in there]
    problem = f"{len(missing)} of {len(frames)} frames are missing in {folder}: {some(missing)}. Fetch them"
    require(not missing, where, problem, "missing file")


def _column(number: Any, masks: Mapping[str, Any], n_frames: int, path: Path, where: str) -> list[Any]:
    column = masks.get(str(number))
    if column is None:
        problem = f"its annotation {number!s:.40} is not in {path}. Are the two files of one data set and split?"
        raise DataError(f"{where}: {problem}", "missing mask")
    require(isinstance(column, list), where, f"annotation {number} of {path} must be a list of RLEs and nulls")
    if n_frames and len(column) != n_frames:
        problem = f"its annotation {number} has masks of {len(column)} frames ({path}), the video has {n_frames}"
        raise DataError(f"{where}: {problem}. Are the two files of one data set?", "missing mask")
    return column


def _check_size(rle: Any, size: tuple[int, int], where: str) -> None:
    """Any other mask's size is checked when it is decoded."""
    claimed = rle.get("size") if isinstance(rle, dict) else None
    if isinstance(claimed, (list, tuple)) and tuple(claimed) != size:
        problem = f"its masks are of size {list(claimed)} (height, width), the first frame is {list(size)}"
        raise DataError(f"{where}: {problem}. Are these the frames that were annotated?", "wrong size")
