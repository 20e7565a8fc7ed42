"""Osprey-724K: images with regions, and conversations or descriptions about them (Yuan et al. 2024)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, field, integer, list_of, read_json, require
from maskcap.data.sources.lenient import ListedSource
from maskcap.data.sources.osprey_text import Turn, read_descriptions, read_turns
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

KINDS = ("conversation", "short_form", "detail", "part", "lvis")
_NOT_REFERRING = ("conversation", "lvis", "short_form")  # "yes" or "dog" may be said of many regions
_NAME_PARTS = {"short": "short_form", "lvis": "lvis", "positive_neg": "lvis", "conv": "conversation", "part": "part"}


class OspreySource(ListedSource):
    """One record an entry: an image, its regions, and for each region the answers about it alone.

    annotation: one of the set's JSON files.
    images: the folder of COCO (or other) images, or several; sub-folders train2014, val2014, train2017, val2017 and
        `COCO_…` prefixes are tried.
    kind: one of KINDS; None tells it from the file's name and content.

    An answer is a caption of the region that its turn names (`<region2>`; none named: the entry's only region); the
    human turn, with `<regionN>` as "this region", is its question; short_form and part add upstream's demand for a
    short answer where it is missing. Descriptions have no question. Answers of kind conversation, lvis and short_form
    ("person") do not single a region out: they are not referring. `skipped` counts, by reason, turns that name several
    regions or none of several, and the regions and entries that are left without an answer.

    Keys are `"osprey/<file stem>/<entry id>"` (with `#2`, `#3` … for a repeated id), region ids their number from 1.
    A malformed entry, an empty answer or a missing image makes a bad record (see `LenientSource`): asking for it raises
    DataError.

    Raises DataError for a missing or unreadable annotation file, folders without any of the images, a file without a
    usable answer, and when every record is bad.
    """

    name = "osprey"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path], *, kind: str | None = None):
        path = Path(annotation)
        entries = read_json(path)
        require(isinstance(entries, list) and bool(entries), path, "expected a list of entries that is not empty")
        self.kind = kind or _detect_kind(path, entries)
        if self.kind not in KINDS:
            raise DataError(f"{path}: unknown kind {self.kind!r}; kinds are {', '.join(KINDS)}.")
        skipped: Counter[str] = Counter()
        drafts = [_draft(entry, key, where, self.kind, skipped) for key, where, entry in _keyed(entries, path)]
        kept = [draft for draft in drafts if draft.error is not None or draft.regions]
        if len(kept) < len(drafts):
            skipped["entries left without a region"] = len(drafts) - len(kept)
        if not kept:
            raise DataError(
                f"{path}: none of {len(entries)} entries has a usable answer: {dict(skipped)}. "
                f"Is kind={self.kind!r} right?"
            )
        folders = ImageFolders(images)
        paths = folders.find_all((draft.entry["file_name"] for draft in kept if draft.error is None), path)
        super().__init__([(draft.key, _slot(draft, paths, folders)) for draft in kept], path)
        self.skipped = dict(skipped)
        logger.info("%s (%s): %d records; skipped: %s", path.name, self.kind, len(self), self.skipped or "nothing")

    @property
    def has_captions(self) -> bool:
        """Always: entries without an answer are left out."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Whether answers of this kind single their region out."""
        return self.kind not in _NOT_REFERRING


@dataclass(frozen=True)
class _Draft:
    """An entry before its image is looked for; where: its name for messages."""

    key: str
    where: str
    entry: dict[str, Any]
    regions: tuple[Region, ...] = ()
    error: DataError | None = None


def _draft(entry: Any, key: str, where: str, kind: str, skipped: Counter[str]) -> _Draft:
    counts: Counter[str] = Counter()
    try:
        ok = isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
        require(ok, where, "expected an object with 'file_name'")
        regions = _regions(entry, kind, where, counts)
    except DataError as error:
        return _Draft(key, where, {}, error=error)
    skipped.update(counts)
    return _Draft(key, where, entry, regions)


def _slot(draft: _Draft, paths: Mapping[str, Path], folders: ImageFolders) -> Record | DataError:
    if draft.error is not None:
        return draft.error
    name = draft.entry["file_name"]
    if name not in paths:
        return folders.missing(name, draft.where)
    try:
        return Record(draft.key, _image(draft.entry, paths[name], draft.where), draft.regions)
    except DataError as error:
        return error


def _detect_kind(path: Path, entries: list[Any]) -> str:
    first = entries[0] if isinstance(entries[0], dict) else {}
    if "description" in first:
        return "detail"
    for part, kind in _NAME_PARTS.items():
        if part in path.stem.lower():
            return kind
    if "conversations" in first:
        return "conversation"
    raise DataError(f"{path}: cannot tell which kind of Osprey file it is. Set kind to one of {', '.join(KINDS)}.")


def _keyed(entries: list[Any], path: Path) -> Iterator[tuple[str, str, Any]]:
    """(key, name for messages, entry) of each entry."""
    times: Counter[str] = Counter()
    for i, entry in enumerate(entries):
        name = str(entry.get("id", i) if isinstance(entry, dict) else i)
        times[name] += 1
        key = f"osprey/{path.stem}/{name}" + (f"#{times[name]}" if times[name] > 1 else "")
        yield key, f"{key} ({path}, entry {i})", entry


def _image(entry: dict[str, Any], path: Path, where: str) -> ImageRef:
    return ImageRef(path, integer(entry.get("height"), "height", where), integer(entry.get("width"), "width", where))


def _regions(entry: dict[str, Any], kind: str, where: str, skipped: Counter[str]) -> tuple[Region, ...]:
    annotations = list_of(dict, entry.get("annotation"), "'annotation'", where)
    for i, annotation in enumerate(annotations):
        field(annotation, "segmentation", f"{where}, region {i + 1}")
    read = read_descriptions if kind == "detail" else read_turns
    turns: list[list[Turn]] = read(entry, len(annotations), kind, where, skipped)
    regions = []
    for i, (annotation, answers) in enumerate(zip(annotations, turns, strict=True)):
        if not answers:
            skipped["regions left without an answer"] += 1
            continue
        questions = tuple(turn.question for turn in answers)
        regions.append(
            Region(
                mask=annotation["segmentation"],
                captions=tuple(turn.answer for turn in answers),
                id=str(i + 1),
                questions=questions if any(questions) else (),
                referring=kind not in _NOT_REFERRING,
            )
        )
    return tuple(regions)
