"""What makes a record good, apart from its pixels: written once for training, `maskcap check` and `maskcap shard`.

Each rule yields every problem that it finds; `raise_first` is for callers that stop at one. Whether a mask is empty
is left to the callers: training and the check have drawn it already, at S × S, while shards are written from
run-length codes that are only parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from maskcap.data.record import Record, Region
from maskcap.errors import DataError


def missing_parts(record: Record) -> Iterator[DataError]:
    """A record without regions and turns; regions without an image; half of a pair; a video's masks that are not as
    many as its frames."""
    if not record.regions1 and not record.turns:
        message = f"{record.key}: the record has no regions and no turns; its source should have left it out."
        yield DataError(message, "no regions")
    if record.image1 is None and (record.regions1 or record.frames):
        yield DataError(f"{record.key}: a record with regions or frames needs an image1.")
    for region in record.regions1:
        if len(region.frame_masks) != len(record.frames):
            yield DataError(
                f"{record.key}: region {region.id!r} has masks of {len(region.frame_masks)} frames, and the video "
                f"{len(record.frames)}; give one for each frame (an empty one where the object is not seen).",
                "missing mask",
            )
    if (record.image2 is None) != (record.regions2 is None):
        yield DataError(f"{record.key}: a pair needs both image2 and regions2.")


def uneven_pair(record: Record) -> Iterator[DataError]:
    """A pair whose frames do not have as many regions each."""
    if record.regions2 is not None and len(record.regions2) != len(record.regions1):
        yield DataError(
            f"{record.key}: {len(record.regions1)} regions in the first frame, {len(record.regions2)} in the second; "
            "a pair shows the same objects in the same order."
        )


def frames_to_check(record: Record) -> list[int]:
    """Which frames of a video are decoded by a check: all of one with masks; of one without, which may have thousands
    in one file, the first, the middle and the last."""
    count = len(record.frames)
    return list(range(count)) if record.regions1 else sorted({0, count // 2, count - 1} if count else ())


def bad_texts(region: Region, key: str) -> Iterator[DataError]:
    """Empty captions, and questions that are not as many as the captions; `key` is the record's."""
    captions, questions = region.captions, region.questions
    for number, caption in enumerate(captions):
        if not caption.strip():
            message = f"{key}: caption {number} of region {region.id!r} is empty; write one or remove it."
            yield DataError(message, "empty caption")
    if captions and questions and len(questions) != len(captions):
        yield DataError(
            f"{key}: region {region.id!r} has {len(captions)} captions and {len(questions)} questions; "
            "give one question for each caption (None: the default question) or none at all."
        )


def empty_mask(mask: str) -> DataError:
    """The error for a mask without a pixel. `mask`: which one, with the record's key."""
    return DataError(
        f"{mask} is empty: there is nothing to describe or to segment. Remove the region from the annotation, or "
        "correct its mask.",
        "empty mask",
    )


def raise_first(problems: Iterable[DataError]) -> None:
    """Raise the first problem, if there is one."""
    for problem in problems:
        raise problem
