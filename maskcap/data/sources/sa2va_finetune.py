"""Sa2VA's own fine-tuning layout: `annotations.json` with polygons and their texts, beside a folder of images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import image_size
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, list_of, require
from maskcap.data.sources.json_entries import caption_of, checked, keyed, names_in, read_entries
from maskcap.data.sources.lenient import joined
from maskcap.data.sources.planned import PlannedSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class Sa2VAFinetuneSource(PlannedSource):
    """One record an entry `{"image", "mask": [[polygon, …], …], "text": [phrase, …]}`; phrase k is of mask k.

    annotation: the JSON list (or a `.jsonl`). images: the folder of images, or several; names, and the folders in them,
        are taken as they are written.

    A mask's polygons `[x0, y0, x1, y1, …]` in pixels are its parts, and united. The layout does not say how large an
    image is: its header is read when the record is asked for.

    Keys are `"sa2va_finetune/<file stem>/<id>"`: the entry's own `id`, else its number from 0; region ids the masks'
    numbers from 0. An entry with other numbers of masks than texts, an empty text, a mask that is no list of polygons
    (of three points or more) or a missing image makes a bad record (see `LenientSource`): asking for it raises
    DataError, and so does an image whose header cannot be read.

    Raises DataError for a missing or unreadable annotation file, folders without any of the images, and when every
    record is bad.
    """

    name = "sa2va_finetune"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        entries = read_entries(path)
        self.skipped: dict[str, int] = {}
        folders = ImageFolders(images, exact=True)
        paths = folders.find_all(names_in(entries, "image"), path)
        planned = [(key, _plan(where, entry, paths, folders)) for key, where, entry in keyed(entries, self.name, path)]
        super().__init__(planned, path)
        logger.info("%s: %d records", path.name, len(self))

    @property
    def has_captions(self) -> bool:
        """Always: every mask has a text."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Always: the texts are there to single their object out."""
        return True


@dataclass(frozen=True)
class _Plan:
    """An entry's image and regions."""

    image: Path
    regions: tuple[Region, ...]

    @property
    def text_size(self) -> tuple[int, int]:
        """(number of regions, characters of all their texts)."""
        return len(self.regions), sum(len(region.captions[0]) for region in self.regions)

    def record(self, key: str) -> Record:
        """The record; reads the image's header, and raises ImageDecodeError where it cannot."""
        return Record(key, ImageRef(self.image, *image_size(self.image, f"{key}: {self.image}")), self.regions)


def _plan(where: str, entry: Any, paths: Mapping[str, Path], folders: ImageFolders) -> _Plan | DataError:
    """An entry's image and regions, or one error with everything that is wrong with it."""
    try:
        name = checked(entry, where, "image", "mask", "text")["image"]
        masks = list_of(list, entry["mask"], "'mask'", where)
        texts = list_of(str, entry["text"], "'text'", where)
        require(isinstance(name, str), where, "'image' must be a file name")
        require(bool(masks), where, "the entry has no masks. Remove it, or write them", "no regions")
        fix = "Text k is of mask k: write one for each"
        require(len(masks) == len(texts), where, f"{len(masks)} masks and {len(texts)} texts. {fix}", "mask count")
    except DataError as error:
        return error
    problems = [] if name in paths else [folders.missing(name, where)]
    regions = []
    for number, (mask, text) in enumerate(zip(masks, texts, strict=True)):
        try:
            _check_polygons(mask, f"{where}, mask {number}")
            regions.append(Region(mask=mask, captions=(caption_of(text, f"text {number}", where),), id=str(number)))
        except DataError as error:
            problems.append(error)
    return joined(problems) if problems else _Plan(paths[name], tuple(regions))


def _check_polygons(mask: list[Any], where: str) -> None:
    """The shape of a mask's lists; whether their numbers are points of the image is checked when it is decoded."""
    whole = bool(mask) and all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in mask)
    problem = "must be a list of polygons [x0, y0, x1, y1, x2, y2, …] of three points or more. Correct the entry"
    require(whole, where, problem, "malformed polygon")
