"""ReVOS, MeVIS and Ref-YouTube-VOS: `meta_expressions.json`, `mask_dict.json` (or a pickle), frames as JPEG files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import image_size
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.rle_union import UnitedFrames
from maskcap.data.sources.files import list_of, read_json, require, some
from maskcap.data.sources.lenient import joined
from maskcap.data.sources.mask_dict import check_size, masks_of, read_masks
from maskcap.data.sources.planned import PlannedSource
from maskcap.data.sources.video_layout import VideoLayout, check_frames, find_layout
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

_NO_EXPRESSIONS = "the video has no 'expressions', an object by id. Correct it"


class ReferringVideoSource(PlannedSource):
    """One record a video: all its frames, and a region for each expression, with one mask for each frame.

    root: the folder of all data sets or the data set's own; see `find_layout` for where its files may be.
    dataset: revos, mevis or ref_youtube_vos. split: as published (train; valid of ReVOS, valid_u of MeVIS).
    expressions, masks, images: the two files and the folder of the videos' folders; None: where `find_layout` finds it.

    An expression means the annotations of its `anno_id`, united in every frame, or none: then all its masks are empty.
    Ref-YouTube-VOS has one annotation an expression, numbered from 0 in the order of videos, then of sorted expression
    ids. Frames are sorted by name, and an annotation's masks are in that order.

    Keys are `"<dataset>/<split>/<video>"`, region ids the expressions'. A record with an unknown annotation, masks of
    more or fewer frames than the video's, an empty expression, a missing frame, a name that leads out of the folder or
    no `expressions` is bad (see `LenientSource`): asking for it raises DataError, and so do masks of another size than
    the first frame's. Videos whose `expressions` are empty are counted in `skipped`. An expression whose annotations
    have no mask in any frame stays, with empty masks; a warning says how many there are. The masks stay in memory as
    they are in their file, united when a sample decodes them.

    Raises DataError for missing or unreadable files, a pickle that holds anything but plain values, no video with
    expressions, a video without `expressions` where annotations are numbered, and when every record is bad;
    ConfigError for another data set.
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
        kept = [draft for draft in drafts if draft.expressions != {}]
        self.skipped = {"videos without expressions": len(drafts) - len(kept)} if len(kept) < len(drafts) else {}
        require(bool(kept), layout.expressions, "no video has an expression")
        found = read_masks(layout.masks)
        slots = [(f"{dataset}/{split}/{draft.name}", _planned(draft, found, layout)) for draft in kept]
        super().__init__(slots, layout.expressions)
        unseen = [f"{key}, expression {each}" for key, plan in slots if isinstance(plan, _Plan) for each in plan.unseen]
        if unseen:
            what = "expressions have annotations without a mask in any frame; their masks are empty"
            logger.warning("%s: %d %s: %s", layout.masks, len(unseen), what, some(unseen))
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
    expressions: Any
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

    @property
    def unseen(self) -> list[str]:
        """Ids of the expressions whose annotations have no mask in any frame."""
        return [
            number
            for number, _, columns in self.expressions
            if columns and all(rle is None for column in columns for rle in column)
        ]

    def record(self, key: str) -> Record:
        """Reads the first frame's header. Raises ImageDecodeError, and DataError for masks of another size."""
        paths = [self.image / f"{name}.jpg" for name in self.frames]
        size = image_size(paths[0], f"{key}: {paths[0]}")
        regions = []
        for number, text, columns in self.expressions:
            where = f"{key}, expression {number}"
            for column in columns:
                check_size(next((rle for rle in column if rle is not None), None), size, where)
            masks = UnitedFrames(columns, size, self.frames, where)
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
        frames = video.get("frames") if isinstance(video, dict) else None
        annotations = None
        if numbered:
            # Not one bad record: every later video would get the masks of others.
            require(isinstance(expressions, dict), f"{layout.expressions}, video {name!r}", _NO_EXPRESSIONS)
            numbers: list[str] = sorted(expressions or ())
            annotations = {number: [count + i] for i, number in enumerate(numbers)}
            count += len(numbers)
        yield _Draft(name, frames, expressions, annotations)


def _planned(draft: _Draft, masks: Mapping[str, Any], layout: VideoLayout) -> _Plan | DataError:
    """A video's plan, or one error with everything that is wrong with it."""
    where = f"{layout.expressions}, video {draft.name!r}"
    if not isinstance(draft.expressions, dict):
        return DataError(f"{where}: {_NO_EXPRESSIONS}.")
    problems: list[DataError] = []
    folder, frames = Path(), []
    try:
        frames = sorted(list_of(str, draft.frames, "'frames'", where))
        require(bool(frames), where, "the video has no frames")
        folder = layout.folder_of(draft.name, where)
        check_frames(frames, folder, where)
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
            columns = [masks_of(each, masks, len(frames), layout.masks, of) for each in ids or ()]
            expressions.append((number, text, columns))
        except DataError as error:
            problems.append(error)
    return joined(problems) if problems else _Plan(folder, frames, expressions)
