"""Describe-Anything's referring form: an image, one mask and the detailed caption of it (Lian et al. 2025)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, require
from maskcap.data.sources.json_entries import caption_of, checked, keyed, names_in, read_entries
from maskcap.data.sources.lenient import ListedSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class DescribeAnythingSource(ListedSource):
    """One record an entry `{"image", "mask", "caption"}`: one region with one caption.

    annotation: a JSON list, or a `.jsonl` with an entry on each line. `mask` is an RLE, whose `size` is the image's.
    images: the folder of images, or several. Names may have folders in them, which are never left out; for a name
        without one, sub-folders train2014, val2014, train2017, val2017 are tried, and for all the `COCO_…` prefixes.

    Keys are `"describe_anything/<file stem>/<id>"`: the entry's own `id`, else its number from 0; an id that comes
    again has `#2` … behind it. An entry without one of the three, with an empty caption, a mask that is no RLE or a
    missing image makes a bad record (see `LenientSource`): asking for it raises DataError.

    Raises DataError for a missing or unreadable annotation file, folders without any of the images, and when every
    record is bad.
    """

    name = "describe_anything"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        entries = read_entries(path)
        self.skipped: dict[str, int] = {}
        folders = ImageFolders(images, keep_folder=True)
        paths = folders.find_all(names_in(entries, "image"), path)
        slots = [
            (key, _slot(key, where, entry, paths, folders)) for key, where, entry in keyed(entries, self.name, path)
        ]
        super().__init__(slots, path)
        logger.info("%s: %d records", path.name, len(self))

    @property
    def has_captions(self) -> bool:
        """Always: every entry has one."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Always: a detailed description is of its region alone."""
        return True


def _slot(key: str, where: str, entry: Any, paths: Mapping[str, Path], folders: ImageFolders) -> Record | DataError:
    try:
        parts = checked(entry, where, "image", "mask", "caption")
        name, mask, caption = parts["image"], parts["mask"], caption_of(parts["caption"], "'caption'", where)
        require(isinstance(name, str), where, "'image' must be a file name")
        height, width = _size(mask, where)
        if name not in paths:
            raise folders.missing(name, where)
    except DataError as error:
        return error
    return Record(key, ImageRef(paths[name], height, width), (Region(mask=mask, captions=(caption,), id="0"),))


def _size(mask: Any, where: str) -> tuple[int, int]:
    size: Any = mask.get("size") if isinstance(mask, dict) else None
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not whole or "counts" not in mask:
        problem = "'mask' must be an RLE with 'size': [height, width] and 'counts'. Correct the entry"
        raise DataError(f"{where}: {problem}.", "malformed RLE")
    return size[0], size[1]
