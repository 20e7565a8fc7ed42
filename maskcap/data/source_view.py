"""A source seen through another: what it says of itself and of its records is passed on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from maskcap.data.record import Record
from maskcap.data.source_facts import (
    annotation_of,
    blocks_of,
    image_of,
    key_of,
    known_bad,
    skipped_of,
    source_has_captions,
    source_has_phrases,
    source_has_turns,
    source_name,
    text_size_of,
)
from maskcap.errors import DataError


class SourceView(Sequence[Record]):
    """Records of `source`, which subclasses choose or change, with what the source says (see `source_facts`).

    As it stands here every record is the source's at the same index; `_under` is for those of which that is not so.
    """

    def __init__(self, source: Sequence[Record]) -> None:
        self.source = source
        self.name = source_name(source)

    def _under(self, index: int) -> int:
        """The index in the source under this one."""
        return index

    @property
    def has_captions(self) -> bool:
        """Whether the source under it has captions at all."""
        return source_has_captions(self.source)

    @property
    def has_phrases(self) -> bool:
        """Whether the source under it has phrases that single a region out."""
        return source_has_phrases(self.source)

    @property
    def has_turns(self) -> bool:
        """Whether the source under it has conversations."""
        return source_has_turns(self.source)

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the source under it left out, of the whole set."""
        return skipped_of(self.source)

    @property
    def bad(self) -> Mapping[int, DataError]:
        """Index here → error of the records that the source under it knows to be bad."""
        return known_bad(self.source)

    @property
    def blocks(self) -> Sequence[int] | None:
        """Records in each shard of the source under it; None where it has no shards."""
        return blocks_of(self.source)

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart."""
        return image_of(self.source, self._under(index))

    def key_of(self, index: int) -> str:
        """The record's key, as `source_facts.key_of` says it of the source under it."""
        return key_of(self.source, self._under(index))

    def annotation_of(self, index: int) -> str | None:
        """The file of the record's annotation, where the source under it says."""
        return annotation_of(self.source, self._under(index))

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of all texts), where the source under it knows without reading."""
        return text_size_of(self.source, self._under(index))
