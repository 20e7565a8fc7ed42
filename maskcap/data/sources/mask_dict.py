"""`mask_dict.json` (or a pickle) of referring video sets: annotation id → its RLEs or nulls over the frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import read_json, require
from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.errors import DataError


def read_masks(path: Path) -> dict[str, Any]:
    """Annotation id as text → masks over the frames, unchecked. Raises DataError for another or unreadable file."""
    masks = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    require(isinstance(masks, dict), path, "expected an object: annotation id → its masks over the frames")
    return {str(number): columns for number, columns in masks.items()}


def masks_of(number: Any, masks: Mapping[str, Any], n_frames: int, path: Path, where: str) -> list[Any]:
    """What an annotation has in each frame, RLE or None, unchecked but for their number (where n_frames is not 0).

    path: of the masks' file, where: the expression, for messages. Raises DataError.
    """
    column = masks.get(str(number))
    if column is None:
        problem = f"its annotation {number!s:.40} is not in {path}. Are the two files of one data set and split?"
        raise DataError(f"{where}: {problem}", "missing mask")
    require(isinstance(column, list), where, f"annotation {number} of {path} must be a list of RLEs and nulls")
    if n_frames and len(column) != n_frames:
        problem = f"its annotation {number} has masks of {len(column)} frames ({path}), the video has {n_frames}"
        raise DataError(f"{where}: {problem}. Are the two files of one data set?", "missing mask")
    return column


def check_size(rle: Any, size: tuple[int, int], where: str) -> None:
    """Raise DataError, naming `where`, for an RLE of another size than the first frame's; any other mask's size is
    checked when it is decoded."""
    claimed = rle.get("size") if isinstance(rle, dict) else None
    if isinstance(claimed, (list, tuple)) and tuple(claimed) != size:
        problem = f"its masks are of size {list(claimed)} (height, width), the first frame is {list(size)}"
        raise DataError(f"{where}: {problem}. Are these the frames that were annotated?", "wrong size")
