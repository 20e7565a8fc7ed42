"""SA-V's videos → records: a frame, a pair of frames, or all annotated frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region, Segmentation
from maskcap.data.rle import empty_rle
from maskcap.data.sources.sav_files import ANNOTATED_EVERY, MaskletCache, Masklets, Video


def frames_record(key: str, video: Video, cache: MaskletCache, start: int, gap: int) -> Record:
    """Annotated frame `start` with the objects that it shows; with a gap, also the frame so many later, and the
    objects that both show."""
    objects, masklets = video.objects(start, start + gap), _read(video, cache)
    if not gap:
        return Record(key, _frame(video, start), _regions(video, masklets, objects, start))
    regions1, regions2 = (_regions(video, masklets, objects, frame) for frame in (start, start + gap))
    return Record(key, _frame(video, start), regions1, _frame(video, start + gap), regions2)


def video_record(
    key: str, video: Video, cache: MaskletCache, frames: Sequence[int], objects: Sequence[tuple[str, int]]
) -> Record:
    """These annotated frames, and the objects' masks in each of them: empty where an object is absent."""
    masklets = _read(video, cache)
    regions = []
    for kind, column in objects:
        read = masklets[video.jsons[kind]]
        masks = tuple(_mask(video, read, frame, column) for frame in frames)
        regions.append(_region(video, kind, column, read, masks[0], may_be_empty=True, frame_masks=masks))
    images = tuple(_frame(video, frame) for frame in frames)
    return Record(key, images[0], tuple(regions), frames=images)


def _read(video: Video, cache: MaskletCache) -> dict[Path, Masklets]:
    return {path: cache.read(path) for path in video.jsons.values()}


def _frame(video: Video, annotated: int) -> ImageRef:
    return ImageRef(video.path, video.height, video.width, frame=ANNOTATED_EVERY * annotated)


def _regions(
    video: Video, masklets: dict[Path, Masklets], objects: Sequence[tuple[str, int]], frame: int
) -> tuple[Region, ...]:
    regions = []
    for kind, column in objects:
        read = masklets[video.jsons[kind]]
        regions.append(_region(video, kind, column, read, read.masks[frame][column]))
    return tuple(regions)


def _region(video: Video, kind: str, column: int, read: Masklets, mask: Any, **of_video: Any) -> Region:
    phrase = video.phrases.get((kind, column))
    return Region(mask, () if phrase is None else (phrase,), id=f"{kind}-{read.ids[column]}", **of_video)


def _mask(video: Video, read: Masklets, frame: int, column: int) -> Segmentation:
    """One JSON may annotate fewer frames than the other, and an absent object may be null."""
    rle = read.masks[frame][column] if frame < len(read.masks) else None
    return empty_rle(video.height, video.width) if rle is None else rle
