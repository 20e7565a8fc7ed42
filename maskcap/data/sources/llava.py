"""LLaVA's instruction mixes (665k and the like): one JSON of conversations about an image each, or about none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import image_size
from maskcap.data.record import ImageRef, Record
from maskcap.data.sources.conversations import read_turns_about_all
from maskcap.data.sources.files import ImageFolders, require
from maskcap.data.sources.json_entries import checked, keyed, names_in, read_entries
from maskcap.data.sources.packed import Talk, TalkSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class LlavaSource(TalkSource):
    """One record an entry `{id, image?, conversations[{from: human | gpt, value}]}`: its conversation as turns.

    annotation: the JSON list (or a `.jsonl`). images: the folder that entries' paths (`coco/train2017/1.jpg`) are
        relative to, or several; they are looked for as written.

    The `<image>` at a question's start or end is taken out, where there is an image; other texts stay as they are, but
    for `<region1>` in questions: there are no regions, and it becomes "region 1". An entry without `image` makes a
    record without one. An answer before the first question, and a last question without an answer, are left out; both,
    and questions with `<regionN>`, are counted in `skipped`. Images are shown as viewers show them, turned as an EXIF
    tag asks. Keys are `"llava/<file stem>/<id>"` (`#2`, `#3` … for a repeated id). A conversation in the wrong order,
    an empty text or a missing image makes a bad record (see `LenientSource`): asking for it raises DataError, and so
    does an image whose header cannot be read.

    Raises DataError for a missing or unreadable annotation file, folders without any of the images, and when every
    record is bad.
    """

    name = "llava"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        entries = read_entries(path)
        folders = ImageFolders(images, exact=True)
        paths = folders.find_all(names_in(entries, "image"), path)
        skipped: Counter[str] = Counter()
        named = keyed(entries, self.name, path)
        slots = ((key, _plan(entry, where, paths, folders, skipped)) for key, where, entry in named)
        super().__init__(slots, path, _Plan)
        self.skipped = dict(skipped)
        logger.info("%s: %d records; skipped: %s", path.name, len(self), self.skipped or "nothing")


class _Plan(Talk):
    """A conversation and its image's file; None: it has no image."""

    def record(self, key: str) -> Record:
        """Reads the image's header. Raises ImageDecodeError."""
        if self.image is None:
            return Record(key, None, (), turns=self.turns)
        size = image_size(self.image, f"{key}: {self.image}", upright=True)
        return Record(key, ImageRef(self.image, *size, upright=True), (), turns=self.turns)


def _plan(
    entry: Any, where: str, paths: Mapping[str, Path], folders: ImageFolders, skipped: Counter[str]
) -> _Plan | DataError:
    """A good entry's plan; a bad one counts nothing as skipped."""
    counts: Counter[str] = Counter()
    try:
        name = checked(entry, where, "conversations").get("image")
        require(name is None or isinstance(name, str), where, "'image' must be a path, or left out")
        turns = read_turns_about_all(entry, where, counts, () if name is None else ("<image>",))
        if name is not None and name not in paths:
            raise folders.missing(name, where)
    except DataError as error:
        return error
    skipped.update(counts)
    return _Plan(None if name is None else paths[name], turns)
