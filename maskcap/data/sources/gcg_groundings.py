"""GCG of GranD-f and OpenPSG: `GranDf_HA_GCG_train.json`, `OpenPsgGCG_train.json`, phrases with places and RLEs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import field, integer, list_of, require
from maskcap.data.sources.gcg import GCGSource, Grounded, Grounding
from maskcap.data.sources.json_entries import read_entries
from maskcap.errors import DataError


class GCGGroundingsSource(GCGSource):
    """annotation: a list of `{file_name, caption, groundings{phrase → {token_positives [start, end], rle_masks}}}`.

    images: the folder of the images, or several; see `ImageFolders`.

    The masks of one phrase are united. A phrase must stand, whatever its case, where `token_positives` says; one whose
    grounding is null was published without a mask, and is left out and counted in `skipped`. Ids are `image_id`, or the
    entry's number. Sizes are `height` and `width` where an entry has them, else from the image's header when the record
    is asked for. See GCGSource for the records, keys and errors.
    """

    name = "gcg_groundings"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        entries = read_entries(path)
        ids = [entry.get("image_id", i) if isinstance(entry, dict) else i for i, entry in enumerate(entries)]
        named = [(ids[i], f"entry {i}", entry) for i, entry in enumerate(entries)]
        super().__init__(path, images, named, _read_entry)


def _read_entry(entry: Any, where: str, skipped: Counter[str]) -> Grounded:
    require(isinstance(entry, dict), where, "expected an object with 'file_name', 'caption' and 'groundings'")
    name, published = entry.get("file_name"), entry.get("caption")
    require(isinstance(name, str) and isinstance(published, str), where, "'file_name' and 'caption' must be texts")
    assert isinstance(name, str) and isinstance(published, str)
    require(isinstance(entry.get("groundings"), dict), where, "'groundings' must be an object: phrase → its masks")
    caption = published.strip('"').strip()
    groundings = []
    for phrase, grounding in entry["groundings"].items():
        if grounding is None:
            skipped["phrases published without a mask"] += 1
            continue
        start, end = _place(phrase, field(grounding, "token_positives", where), caption, published, where)
        masks = list_of(dict, grounding.get("rle_masks"), f"'rle_masks' of {phrase!r}", where)
        groundings.append(Grounding(start, end, tuple(masks)))
    size = None
    if "height" in entry and "width" in entry:
        size = integer(entry["height"], "height", where), integer(entry["width"], "width", where)
    return Grounded(name, caption, groundings, size)


def _place(phrase: str, positions: Any, caption: str, published: str, where: str) -> tuple[int, int]:
    """Start and end in `caption`; the published places may count the quotation mark that a caption began with."""
    whole = isinstance(positions, list) and len(positions) == 2 and all(type(place) is int for place in positions)
    require(whole, where, f"'token_positives' of {phrase!r} must be [start, end]", "bad phrase")
    start, end = positions
    lead = published.find(caption)
    for shift in (0, lead):
        if 0 <= start - shift < end - shift <= len(caption) and _same(caption[start - shift : end - shift], phrase):
            return start - shift, end - shift
    raise DataError(
        f"{where}: the phrase {phrase!r} is not at characters {start} to {end} of the caption, which has "
        f"{len(caption)}: there stands {caption[max(0, start) : max(0, end)]!r}. Correct its 'token_positives'.",
        "bad phrase",
    )


def _same(text: str, phrase: str) -> bool:
    return bool(text.strip()) and text.strip().casefold() == phrase.strip().casefold()
