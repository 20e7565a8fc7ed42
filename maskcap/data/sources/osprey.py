"""Osprey-724K: images with regions, and conversations or descriptions about them (Yuan et al. 2024)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, field, integer, list_of, read_json, require
from maskcap.data.sources.osprey_text import Turn, read_descriptions, read_turns
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

KINDS = ("conversation", "short_form", "detail", "part", "lvis")
_NOT_REFERRING = ("conversation", "lvis", "short_form")  # "yes" or "dog" may be said of many regions
_NAME_PARTS = {"short": "short_form", "lvis": "lvis", "positive_neg": "lvis", "conv": "conversation", "part": "part"}


class OspreySource(Sequence[Record]):
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
    Raises DataError for missing files or images, malformed entries and empty answers.
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
        drafts = [
            (key, entry, _regions(entry, self.kind, where, skipped)) for key, where, entry in _keyed(entries, path)
        ]
        kept = [draft for draft in drafts if draft[2]]
        if len(kept) < len(drafts):
            skipped["entries left without a region"] = len(drafts) - len(kept)
        if not kept:
            raise DataError(
                f"{path}: none of {len(entries)} entries has a usable answer: {dict(skipped)}. "
                f"Is kind={self.kind!r} right?"
            )
        paths = ImageFolders(images).find_all((entry["file_name"] for _, entry, _ in kept), path)
        self._records = [
            Record(key, _image(entry, paths[entry["file_name"]], f"{key} ({path})"), regions)
            for key, entry, regions in kept
        ]
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

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart; cheap. Several entries may be of one image."""
        return self._records[index].image1.path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]


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


def _keyed(entries: list[Any], path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(key, name for messages, entry) of each entry."""
    times: Counter[str] = Counter()
    for i, entry in enumerate(entries):
        ok = isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
        require(ok, f"{path}, entry {i}", "expected an object with 'file_name'")
        name = str(entry.get("id", i))
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
