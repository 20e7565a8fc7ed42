"""What the layouts of GCG (grounded conversation, Rasheed et al. 2024) share: captions whose phrases have masks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import image_size
from maskcap.data.record import ImageRef, Phrase, Record, Region, Segmentation, Turn
from maskcap.data.rle_union import unite
from maskcap.data.sources.files import ImageFolders, require
from maskcap.data.sources.json_entries import distinct
from maskcap.data.sources.planned import Plan, TurnsSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

QUESTION = (
    "Could you please give me a detailed description of the image? Please respond with interleaved segmentation masks "
    "for the corresponding parts of the answer."
)


@dataclass(frozen=True)
class Grounding:
    """Characters `start` … `end` − 1 of a caption, and the masks (one or more) of what they name together."""

    start: int
    end: int
    masks: tuple[Segmentation, ...]


@dataclass(frozen=True)
class Grounded:
    """An entry as it lies in its file: image, caption and groundings in any order.

    size: (height, width) where the annotation says; None: the image's header does.
    """

    file_name: str
    caption: str
    groundings: Sequence[Grounding]
    size: tuple[int, int] | None = None


class GCGSource(TurnsSource):
    """One record an image: one turn, whose answer is the caption and whose phrases have one region each, in order.

    entries: (id, its name for messages, content or what is wrong with the entry); read: makes a Grounded of a content,
    counts what it leaves out, and raises DataError. Regions have no captions: only the turn speaks of them. Phrases at
    one place are one phrase, with their masks united, which is counted in `skipped`; so are entries without a phrase,
    which are left out. Keys are `"<name>/<file stem>/<id>"`, region ids the phrase's number from 1.

    Raises DataError for folders without any of the images, when no entry has a phrase, and when every record is bad.
    """

    name = "gcg"

    def __init__(
        self,
        path: Path,
        images: str | Path | Sequence[str | Path],
        entries: Sequence[tuple[object, str, Any]],
        read: Callable[[Any, str, Counter[str]], Grounded],
        skipped: Counter[str] | None = None,
    ):
        skipped = Counter() if skipped is None else skipped
        keys = [f"{self.name}/{path.stem}/{name}" for name in distinct(entry[0] for entry in entries)]
        drafts: list[tuple[str, str, Grounded | DataError]] = []
        for key, (_, part, content) in zip(keys, entries, strict=True):
            where = f"{key} ({path}, {part})"
            draft = _draft(content, where, read, skipped)
            if isinstance(draft, Grounded) and not draft.groundings:
                skipped["images without a phrase that has a mask"] += 1
            else:
                drafts.append((key, where, draft))
        if not drafts:
            raise DataError(f"{path}: none of {len(entries)} entries has a phrase with a mask: {dict(skipped)}.")
        folders = ImageFolders(images)
        paths = folders.find_all((draft.file_name for *_, draft in drafts if isinstance(draft, Grounded)), path)
        slots: list[tuple[str, Plan | DataError]] = []
        for key, where, draft in drafts:
            if isinstance(draft, Grounded):
                found = paths.get(draft.file_name)
                slots.append((key, _Plan(found, draft) if found else folders.missing(draft.file_name, where)))
            else:
                slots.append((key, draft))
        self.skipped = dict(skipped)
        super().__init__(slots, path)
        logger.info("%s: %d records; skipped: %s", path.name, len(self), self.skipped or "nothing")


@dataclass(frozen=True)
class _Plan:
    """A good entry, its groundings in order, and its image's file."""

    image: Path
    entry: Grounded

    @property
    def text_size(self) -> tuple[int, int]:
        """(number of phrases, characters of question and answer)."""
        return len(self.entry.groundings), len(QUESTION) + len(self.entry.caption)

    def record(self, key: str) -> Record:
        """Reads the image's header where the annotation has no size. Raises ImageDecodeError, MaskDecodeError."""
        height, width = self.entry.size or image_size(self.image, f"{key}: {self.image}")
        groundings = self.entry.groundings
        regions = tuple(
            Region(unite(grounding.masks, f"{key}, phrase {number}"), (), str(number))
            for number, grounding in enumerate(groundings, 1)
        )
        phrases = tuple(Phrase(grounding.start, grounding.end, i) for i, grounding in enumerate(groundings))
        turn = Turn(QUESTION, self.entry.caption, phrases)
        return Record(key, ImageRef(self.image, height, width), regions, turns=(turn,))


def _draft(
    content: Any, where: str, read: Callable[[Any, str, Counter[str]], Grounded], skipped: Counter[str]
) -> Grounded | DataError:
    """A checked entry with its groundings in order, or what is wrong with it; a bad one counts nothing as skipped."""
    counts: Counter[str] = Counter()
    if isinstance(content, DataError):
        return content
    try:
        entry = read(content, where, counts)
        require(bool(entry.caption.strip()), where, "the caption is empty; write one, or remove the entry")
        for grounding in entry.groundings:
            _check(grounding, entry.caption, where)
        ordered = replace(entry, groundings=_in_order(entry.caption, entry.groundings, counts))
    except DataError as error:
        return error
    skipped.update(+counts)  # without the zeros
    return ordered


def _check(grounding: Grounding, caption: str, where: str) -> None:
    start, end = grounding.start, grounding.end
    if not 0 <= start < end <= len(caption) or not caption[start:end].strip():
        raise DataError(
            f"{where}: a phrase is said to be at characters {start} to {end} of the caption, which has {len(caption)}. "
            "Correct its place.",
            "bad phrase",
        )
    if not grounding.masks:
        raise DataError(
            f"{where}: the phrase {caption[start:end]!r} has no mask: an answer needs one for each [SEG]. Give it one, "
            "or remove the phrase.",
            "missing mask",
        )


def _in_order(caption: str, groundings: Iterable[Grounding], counts: Counter[str]) -> tuple[Grounding, ...]:
    """By place; those of one place are one phrase. Where two overlap, the first ends where the second begins."""
    places: dict[tuple[int, int], tuple[Segmentation, ...]] = {}
    for grounding in groundings:
        place = (grounding.start, grounding.end)
        counts["phrases united at one place"] += place in places
        places[place] = (*places.get(place, ()), *grounding.masks)
    ordered = sorted(places.items())
    nexts = [start for (start, _), _ in ordered[1:]] + [len(caption)]
    kept = []
    for ((start, end), masks), following in zip(ordered, nexts, strict=False):
        if end > following:
            end = start + len(caption[start:following].rstrip())
            counts["phrases cut where the next one begins" if end > start else "phrases within another one"] += 1
        if end > start:
            kept.append(Grounding(start, end, masks))
    return tuple(kept)
