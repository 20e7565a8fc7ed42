"""GCG of RefCOCOg: `RefCOCOg_GCG_train.json`, captions into which the objects' phrases were written word for word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import Segmentation
from maskcap.data.sources.files import list_of, read_json, require
from maskcap.data.sources.gcg import GCGSource, Grounded, Grounding
from maskcap.errors import DataError


class GCGRefCOCOgSource(GCGSource):
    """annotation: a list of one-key objects, id → `{img_file_name, caption, refs[{sentence, segmentation}]}`.

    images: the folder of COCO images, or several; see `ImageFolders`.
    drop_unmatched: leave out, and count in `skipped`, refs whose sentence is not in the caption, as Sa2VA does; by
        default they make their record bad.

    A sentence's place is looked for in the caption, whatever the case of either: as whole words, else anywhere; the
    first one if there are several. The answer keeps the caption's case. Segmentations are polygons, rarely RLE; sizes
    come from the images' headers when a record is asked for. See GCGSource for the records, keys and errors.
    """

    name = "gcg_refcocog"

    def __init__(
        self, annotation: str | Path, images: str | Path | Sequence[str | Path], *, drop_unmatched: bool = False
    ):
        path = Path(annotation)
        entries = list_of(dict, read_json(path), "the file", path)
        self._drop_unmatched = drop_unmatched
        named = [(next(iter(entry), i), f"entry {i}", entry) for i, entry in enumerate(entries)]
        super().__init__(path, images, named, self._read_entry)

    def _read_entry(self, entry: dict[str, Any], where: str, skipped: Counter[str]) -> Grounded:
        content = next(iter(entry.values())) if len(entry) == 1 else None
        require(isinstance(content, dict), where, "expected an object with one key, the id, for each entry")
        assert isinstance(content, dict)
        name, caption = content.get("img_file_name"), content.get("caption")
        require(isinstance(name, str) and isinstance(caption, str), where, "'img_file_name' and 'caption' are texts")
        assert isinstance(name, str) and isinstance(caption, str)
        caption = caption.strip('"').strip()
        groundings = []
        for ref in list_of(dict, content.get("refs"), "'refs'", where):
            sentence = ref.get("sentence")
            ok = isinstance(sentence, str) and bool(sentence.strip())
            require(ok, where, "a ref has no 'sentence'. Write it, or remove the ref", "empty caption")
            place = _place(str(sentence).strip(), caption)
            if place is not None:
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


def _place(phrase: str, caption: str) -> tuple[int, int] | None:
    """Start and end of the phrase in the caption; None: not in it."""
    wanted, text = _lower(phrase), _lower(caption)
    words = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text)
    start = words.start() if words else text.find(wanted)
    return None if start < 0 else (start, start + len(wanted))


def _lower(text: str) -> str:
    """In lower case and of the same length: characters that would become two stay as they are."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _masks(segmentation: Any, where: str) -> tuple[Segmentation, ...]:
    if not segmentation:
        return ()  # named with its phrase by those who know the caption
    require(isinstance(segmentation, (list, dict)), where, "a ref's 'segmentation' must be polygons or an RLE")
    return (segmentation,)
