"""Several masks of one object as one segmentation, united when the mask is decoded and not before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskcap.data.record import Segmentation
from maskcap.data.rle import check_image_size, empty_rle, parse_rle
from maskcap.errors import MaskDecodeError


@dataclass(frozen=True)
class UnitedRLE(Mapping[str, object]):
    """The union of RLEs of one size, itself an uncompressed RLE: `counts` is worked out whenever it is asked for.

    parts: one or more, unchecked. where: the mask's name for messages. Asking for `size` or `counts` raises
    MaskDecodeError for a malformed part and for parts of different sizes.
    """

    parts: tuple[Mapping[str, object], ...]
    where: str

    def __getitem__(self, name: str) -> object:
        if name == "size":
            return self.parts[0].get("size")
        if name == "counts":
            return _united_counts(self.parts, self.where)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("size", "counts"))

    def __len__(self) -> int:
        return 2


def unite(masks: Sequence[Segmentation], where: str) -> Segmentation:
    """One segmentation whose pixels are those of any of `masks`; what they hold is read when it is decoded.

    masks: one or more, all of them RLEs or all of them polygons. where: the mask's name for messages. Raises
    MaskDecodeError where they are neither.
    """
    if len(masks) == 1:
        return masks[0]
    if all(isinstance(mask, Mapping) for mask in masks):
        rles: Any = tuple(masks)
        return UnitedRLE(rles, where)
    if all(isinstance(mask, list) for mask in masks):
        polygons: Any = [polygon for mask in masks for polygon in mask]  # the polygons of one object are united anyway
        return polygons
    raise MaskDecodeError(
        f"{where}: its {len(masks)} masks are of different kinds, which cannot be united. Write all of them as RLE."
    )


def unite_over_frames(
    columns: Sequence[Sequence[Any]], size: tuple[int, int], frames: Sequence[str], where: str
) -> tuple[Segmentation, ...]:
    """The mask of each frame: the union of what each column has there, empty where none of them has anything.

    columns: RLEs or None, one for each frame; no column at all is a phrase that means nothing. size: (height, width).
    frames: their names. where: the masks' name for messages. Raises MaskDecodeError for a mask that is no RLE.
    """
    masks: list[Segmentation] = []
    for i, frame in enumerate(frames):
        shown = [column[i] for column in columns if column[i] is not None]
        for rle in shown:
            if not isinstance(rle, Mapping):
                raise MaskDecodeError(f"{where}, frame {frame}: an RLE or null expected, got {type(rle).__name__}.")
        masks.append(unite(shown, f"{where}, frame {frame}") if shown else empty_rle(*size))
    return tuple(masks)


def _united_counts(parts: Sequence[Mapping[str, object]], where: str) -> list[int]:
    """Run lengths of the union, zeros first. The runs of ones are laid over each other by where they start and end."""
    size: Any = parts[0].get("size")
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise MaskDecodeError(f"{where}: bad segmentation: an RLE needs 'size': [height, width].", "malformed RLE")
    height, width = size
    check_image_size(height, width, where)
    places, steps = [], []
    for part in parts:
        ends = np.cumsum(parse_rle(part, height, width, where))
        ones = ends[: ends.size // 2 * 2]  # starts of ones at even, their ends at odd places
        places.append(ones)
        steps.append(np.where(np.arange(ones.size) % 2 == 0, 1, -1))
    place, step = np.concatenate(places), np.concatenate(steps)
    # Starts before ends at one place: runs that touch are one.
    order = np.lexsort((-step, place))
    place, depth = place[order], np.cumsum(step[order])
    before = np.concatenate(([0], depth[:-1]))
    turns = place[(depth == 0) != (before == 0)]
    bounds = np.concatenate(([0], turns, [height * width]))
    counts: list[int] = np.diff(bounds).tolist()
    return counts
