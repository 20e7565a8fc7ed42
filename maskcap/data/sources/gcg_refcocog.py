"""GCG of RefCOCOg: `RefCOCOg_GCG_train.json`, captions into which the objects' phrases were written word for word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import Segmentation
from maskcap.data.sources.files import list_of, require
from maskcap.data.sources.gcg import GCGSource, Grounded, Grounding
from maskcap.data.sources.json_entries import read_entries
from maskcap.errors import DataError


class GCGRefCOCOgSource(GCGSource):
    """annotation: a list of one-key objects, id → `{img_file_name, caption, refs[{sentence, segmentation}]}`.

    images: the folder of COCO images, or several; see `ImageFolders`.
    drop_unmatched: leave out, and count in `skipped`, refs whose sentence is not in the caption, as Sa2VA does; by
        default they make their record bad.

    A sentence's place is looked for in the caption, whatever the case of either: as whole words, else anywhere. The
    second ref of a sentence is at the second place where it stands, and so on; refs beyond the last of these share it
    with the one before, as one phrase with all masks, and are counted in `skipped`. The answer keeps the caption's
    case. Segmentations are polygons, rarely RLE; sizes come from the images' headers when a record is asked for. See
    GCGSource for the records, keys and errors.
    """

    name = "gcg_refcocog"

    def __init__(
        self, annotation: str | Path, images: str | Path | Sequence[str | Path], *, drop_unmatched: bool = False
    ):
        path = Path(annotation)
        entries = read_entries(path)
        self._drop_unmatched = drop_unmatched
        ids = [next(iter(entry), i) if isinstance(entry, dict) else i for i, entry in enumerate(entries)]
        named = [(ids[i], f"entry {i}", entry) for i, entry in enumerate(entries)]
        super().__init__(path, images, named, self._read_entry)

    def _read_entry(self, entry: Any, where: str, skipped: Counter[str]) -> Grounded:
        content = next(iter(entry.values())) if isinstance(entry, dict) and len(entry) == 1 else None
        require(isinstance(content, dict), where, "expected an object with one key, the id, for each entry")
        assert isinstance(content, dict)
        name, caption = content.get("img_file_name"), content.get("caption")
        require(isinstance(name, str) and isinstance(caption, str), where, "'img_file_name' and 'caption' are texts")
        assert isinstance(name, str) and isinstance(caption, str)
        caption = caption.strip('"').strip()
        groundings, times = [], Counter()
        for ref in list_of(dict, content.get("refs"), "'refs'", where):
            sentence = ref.get("sentence")
            ok = isinstance(sentence, str) and bool(sentence.strip())
            require(ok, where, "a ref has no 'sentence'. Write it, or remove the ref", "empty caption")
            wanted = _lower(str(sentence).strip())
            places = _places(wanted, _lower(caption))
            if places:
                place = places[min(times[wanted], len(places) - 1)]
                times[wanted] += 1
                groundings.append(Grounding(*place, _masks(ref.get("segmentation"), where)))
            elif self._drop_unmatched:
                skipped["refs whose sentence is not in the caption"] += 1
            else:
                raise DataError(
                    f"{where}: the phrase {sentence!r} is not in the caption. Correct one of them, or set "
                    "drop_unmatched=true to leave such refs out and count them.",
                    "bad phrase",
                )
        return Grounded(name, caption, groundings)


def _places(phrase: str, caption: str) -> list[tuple[int, int]]:
    """Start and end wherever the phrase is in the caption: as whole words, else anywhere."""
    found = re.escape(phrase)
    words = re.finditer(rf"(?<!\w){found}(?!\w)", caption)
    return [match.span() for match in words] or [match.span() for match in re.finditer(found, caption)]


def _lower(text: str) -> str:
    """In lower case and of the same length: characters that would become two stay as they are."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _masks(segmentation: Any, where: str) -> tuple[Segmentation, ...]:
    if not segmentation:
        return ()  # named with its phrase by those who know the caption
    require(isinstance(segmentation, (list, dict)), where, "a ref's 'segmentation' must be polygons or an RLE")
    return (segmentation,)
