"""Several masks of one object as one segmentation, united when the mask is decoded and not before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

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
            return _first_size(self.parts, self.where)
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


@dataclass(frozen=True)
class UnitedFrames(Sequence[Segmentation]):
    """The mask of each frame: the union of what each column has there, empty where none of them has anything.

    columns: RLEs or None, unchecked, one for each frame; no column at all is a phrase that means nothing. size:
    (height, width). frames: their names. where: the masks' name for messages. Nothing is done before a frame is asked
    for: a sample takes few of them. What is neither RLE nor None raises MaskDecodeError when it is decoded.
    """

    columns: Sequence[Sequence[Any]]
    size: tuple[int, int]
    frames: Sequence[str]
    where: str

    @overload
    def __getitem__(self, index: int) -> Segmentation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segmentation]: ...
    def __getitem__(self, index: int | slice) -> Segmentation | list[Segmentation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        frame = self.frames[index]
        shown = tuple(column[index] for column in self.columns if column[index] is not None)
        if not shown:
            return empty_rle(*self.size)
        whole = len(shown) == 1 and isinstance(shown[0], Mapping)
        return shown[0] if whole else UnitedRLE(shown, f"{self.where}, frame {frame}")

    def __len__(self) -> int:
        return len(self.frames)


def _united_counts(parts: Sequence[Mapping[str, object]], where: str) -> list[int]:
    """Run lengths of the union, zeros first. The runs of ones are laid over each other by where they start and end."""
    size: Any = _first_size(parts, where)
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


def _first_size(parts: Sequence[Mapping[str, object]], where: str) -> object:
    """The size that the first part claims. Raises MaskDecodeError where any part is no RLE."""
    for part in parts:
        if not isinstance(part, Mapping):
            message = f"{where}: an RLE or null expected, got {type(part).__name__}. Correct the annotation."
            raise MaskDecodeError(message, "malformed RLE")
    return parts[0].get("size")
