"""Osprey-724K: images with regions, and conversations or descriptions about them (Yuan et al. 2024)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region, Turn
from maskcap.data.sources.files import ImageFolders, field, integer, list_of, read_json, require
from maskcap.data.sources.json_entries import keyed
from maskcap.data.sources.lenient import ListedSource
from maskcap.data.sources.osprey_text import Said, read_descriptions, read_turns
from maskcap.data.sources.osprey_turns import read_dialogue
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

    With conversations=True a record has the whole conversation as turns, those that name several regions or none of
    several, too: `<regionN>` stays in questions, and is "region N" in answers. Its regions are those that the turns
    name, numbered from 1 in the turns, and have no captions, so that nothing is learned twice. A description is a turn.
    `skipped` then counts unanswered questions, regions that no turn names and entries without a turn.

    Keys are `"osprey/<file stem>/<entry id>"` (with `#2`, `#3` … for a repeated id), region ids their number from 1.
    A malformed entry, an empty answer or a missing image makes a bad record (see `LenientSource`): asking for it raises
    DataError.

    Raises DataError for a missing or unreadable annotation file, folders without any of the images, a file without a
    usable answer, and when every record is bad.
    """

    name = "osprey"

    def __init__(
        self,
        annotation: str | Path,
        images: str | Path | Sequence[str | Path],
        *,
        kind: str | None = None,
        conversations: bool = False,
    ):
        self._conversations = conversations
        path = Path(annotation)
        entries = read_json(path)
        require(isinstance(entries, list) and bool(entries), path, "expected a list of entries that is not empty")
        self.kind = kind or _detect_kind(path, entries)
        if self.kind not in KINDS:
            raise DataError(f"{path}: unknown kind {self.kind!r}; kinds are {', '.join(KINDS)}.")
        skipped: Counter[str] = Counter()
        drafts = [
            _draft(entry, key, where, self.kind, conversations, skipped)
            for key, where, entry in keyed(entries, "osprey", path)
        ]
        kept = [draft for draft in drafts if draft.error is not None or draft.regions or draft.turns]
        if len(kept) < len(drafts):
            skipped[f"entries left without a {'turn' if conversations else 'region'}"] = len(drafts) - len(kept)
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
        """Unless the answers are turns: entries without an answer are left out."""
        return not self._conversations

    @property
    def has_phrases(self) -> bool:
        """Whether answers of this kind single their region out, and are not turns."""
        return self.kind not in _NOT_REFERRING and not self._conversations

    @property
    def has_turns(self) -> bool:
        """Whether the source was asked for conversations."""
        return self._conversations


@dataclass(frozen=True)
class _Draft:
    """An entry before its image is looked for; where: its name for messages."""

    key: str
    where: str
    entry: dict[str, Any]
    regions: tuple[Region, ...] = ()
    turns: tuple[Turn, ...] = ()
    error: DataError | None = None


def _draft(entry: Any, key: str, where: str, kind: str, conversations: bool, skipped: Counter[str]) -> _Draft:
    counts: Counter[str] = Counter()
    try:
        ok = isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
        require(ok, where, "expected an object with 'file_name'")
        masks = _masks(entry, where)
        if conversations:
            turns, named = read_dialogue(entry, len(masks), kind, where, counts)
            regions = tuple(Region(masks[number - 1], (), str(number), referring=False) for number in named)
        else:
            turns, regions = (), _regions(entry, masks, kind, where, counts)
    except DataError as error:
        return _Draft(key, where, {}, error=error)
    skipped.update(counts)
    return _Draft(key, where, entry, regions, turns)


def _slot(draft: _Draft, paths: Mapping[str, Path], folders: ImageFolders) -> Record | DataError:
    if draft.error is not None:
        return draft.error
    name = draft.entry["file_name"]
    if name not in paths:
        return folders.missing(name, draft.where)
    try:
        return Record(draft.key, _image(draft.entry, paths[name], draft.where), draft.regions, turns=draft.turns)
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


def _image(entry: dict[str, Any], path: Path, where: str) -> ImageRef:
    return ImageRef(path, integer(entry.get("height"), "height", where), integer(entry.get("width"), "width", where))


def _masks(entry: dict[str, Any], where: str) -> list[Any]:
    annotations = list_of(dict, entry.get("annotation"), "'annotation'", where)
    return [field(annotation, "segmentation", f"{where}, region {i}") for i, annotation in enumerate(annotations, 1)]


def _regions(
    entry: dict[str, Any], masks: Sequence[Any], kind: str, where: str, skipped: Counter[str]
) -> tuple[Region, ...]:
    read = read_descriptions if kind == "detail" else read_turns
    turns: list[list[Said]] = read(entry, len(masks), kind, where, skipped)
    regions = []
    for i, (mask, answers) in enumerate(zip(masks, turns, strict=True)):
        if not answers:
            skipped["regions left without an answer"] += 1
            continue
        questions = tuple(turn.question for turn in answers)
        regions.append(
            Region(
                mask=mask,
                captions=tuple(turn.answer for turn in answers),
                id=str(i + 1),
                questions=questions if any(questions) else (),
                referring=kind not in _NOT_REFERRING,
            )
        )
    return tuple(regions)
