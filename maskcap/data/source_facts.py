"""What a source says of itself and of a record without reading it, with an answer for any sequence of Records.

A source may have `name`, `has_captions`, `has_phrases`, `has_turns`, `skipped`, `bad`, `blocks`, `image_of(i)`,
`key_of(i)`, `annotation_of(i)` and `text_size_of(i)`; these functions ask it, and find out themselves, or say
"unknown", where it has none. Nothing here decodes anything; indices are 0 … len − 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from maskcap.data.record import Record
from maskcap.errors import DataError


def source_name(source: Sequence[Record]) -> str:
    """The source's own `name`; else that of its type."""
    return str(getattr(source, "name", type(source).__name__))


def source_has_captions(source: Sequence[Record]) -> bool:
    """The source's own `has_captions`; without that property, whether any of its records has a caption (reads them)."""
    known = getattr(source, "has_captions", None)
    if known is not None:
        return bool(known)
    return any(region.captions for record in _readable(source) for region in record.regions1)


def source_has_phrases(source: Sequence[Record]) -> bool:
    """The source's own `has_phrases`; without it, whether a caption of its records singles a region out."""
    known = getattr(source, "has_phrases", None)
    if known is not None:
        return bool(known)
    return any(region.captions and region.referring for record in _readable(source) for region in record.regions1)


def source_has_turns(source: Sequence[Record]) -> bool:
    """The source's own `has_turns`; without it, whether any of its records has a conversation."""
    known = getattr(source, "has_turns", None)
    return bool(known) if known is not None else any(record.turns for record in _readable(source))


def skipped_of(source: Sequence[Record]) -> Mapping[str, int]:
    """How many entries the source left out by its own rules, by reason; empty where it does not say."""
    return getattr(source, "skipped", None) or {}


def known_bad(source: Sequence[Record]) -> Mapping[int, DataError]:
    """Index → error of the records that building found to be bad: `source[index]` raises it. Empty: none known."""
    return getattr(source, "bad", None) or {}


def blocks_of(source: Sequence[Record]) -> Sequence[int] | None:
    """Records in each shard, in order (their sum is the length); None: the records do not lie in shards."""
    return getattr(source, "blocks", None)


def image_of(source: Sequence[Record], index: int) -> Hashable:
    """What tells the images (videos) of records apart: the source's own `image_of`, else the path of its image.

    The latter reads the record; a bad one is an image of its own.
    """
    own: Any = getattr(source, "image_of", None)
    if own is not None:
        return own(index)
    try:
        image = source[index].image1
    except DataError:  # raised again, to someone who can name or count it, when the record itself is asked for
        return key_of(source, index)
    return key_of(source, index) if image is None else image.path


def key_of(source: Sequence[Record], index: int) -> str:
    """The record's key by the source's own cheap `key_of`, else `"<name>#<index>"`; works for bad records too."""
    own: Any = getattr(source, "key_of", None)
    return f"{source_name(source)}#{index}" if own is None else str(own(index))


def annotation_of(source: Sequence[Record], index: int) -> str | None:
    """The file (or files) that hold the record's annotation, for messages; None: the source does not say."""
    own: Any = getattr(source, "annotation_of", None)
    return None if own is None else own(index)


def text_size_of(source: Sequence[Record], index: int) -> tuple[int, int] | None:
    """(number of regions, characters of all texts) of a record; None: unknown without reading it, or bad."""
    own: Any = getattr(source, "text_size_of", None)
    return None if own is None else own(index)


def text_size(record: Record) -> tuple[int, int]:
    """(number of regions, characters of all texts) of a record that is at hand; of a pair, its first frame."""
    captions = sum(len(caption) for region in record.regions1 for caption in region.captions)
    return len(record.regions1), captions + sum(len(turn.question) + len(turn.answer) for turn in record.turns)


def _readable(source: Sequence[Record]) -> Any:
    """The records that are not bad: a bad one raises again when it is asked for by itself."""
    for index in range(len(source)):
        try:
            yield source[index]
        except DataError:
            continue
