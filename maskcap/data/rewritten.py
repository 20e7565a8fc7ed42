"""Sources whose records are changed as they are read: words taken away, stills made into pairs.

Configurations name the functions at the end as they name `maskcap.data.split.split_part`: `_partial_: true`, around a
source that is `_partial_` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import overload

from maskcap.data.record import Record, Region
from maskcap.data.source_view import SourceView
from maskcap.errors import DataError


class RewrittenSource(SourceView):
    """The records of a source, each through `rewrite`, in its order and under its keys; with what the source says.

    rewrite: a plain function (workers get a copy) that keeps the key, the first image and the number of its regions.
    keeps_words: False where it takes all captions and conversations away: there are then none, whatever the source
    under it says.
    A record that the source cannot give raises here as it does there.
    """

    def __init__(
        self, source: Sequence[Record], rewrite: Callable[[Record], Record], *, keeps_words: bool = True
    ) -> None:
        super().__init__(source)
        self._rewrite = rewrite
        self._keeps_words = keeps_words

    @property
    def has_captions(self) -> bool:
        """Whether the records have captions at all."""
        return self._keeps_words and super().has_captions

    @property
    def has_phrases(self) -> bool:
        """Whether the records have phrases that single a region out."""
        return self._keeps_words and super().has_phrases

    @property
    def has_turns(self) -> bool:
        """Whether the records have conversations."""
        return self._keeps_words and super().has_turns

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """(number of regions, characters of the captions that are left), where it is known without reading."""
        size = super().text_size_of(index)
        return size if size is None or self._keeps_words else (size[0], 0)

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._rewrite(record) for record in self.source[index]]
        return self._rewrite(self.source[index])

    def __iter__(self) -> Iterator[Record]:
        return (self._rewrite(record) for record in self.source)


def without_captions(source: Callable[[], Sequence[Record]]) -> RewrittenSource:
    """Build the source and take its words away, captions and conversations: masks alone, to learn from as from a set
    that never had any. Records without regions have nothing left, and are named as such."""
    return RewrittenSource(source(), _without_words, keeps_words=False)


def still_pairs(source: Callable[[], Sequence[Record]]) -> RewrittenSource:
    """Build the source and make each single image a pair with itself: the same image and regions as the second frame.

    So stills can stand in one batch with pairs of video frames. Records that are pairs stay as they are; of a video it
    is the first frame drawn; texts without an image cannot be pairs, and are bad records.
    """
    return RewrittenSource(source(), _paired)


def _without_words(record: Record) -> Record:
    regions1, regions2 = _wordless(record.regions1), record.regions2
    if regions2 is not None:  # a pair of a still with itself stays one: make_sample tells it by its regions
        regions2 = regions1 if regions2 is record.regions1 else _wordless(regions2)
    return replace(record, regions1=regions1, regions2=regions2, turns=())


def _wordless(regions: Sequence[Region]) -> tuple[Region, ...]:
    return tuple(replace(region, captions=(), questions=(), referring=True) for region in regions)


def _paired(record: Record) -> Record:
    if record.image2 is not None or record.regions2 is not None:
        return record
    if record.image1 is None:
        raise DataError(
            f"{record.key}: a text without an image cannot be a pair of frames. Leave it out of a mixture with pairs.",
            "no image",
        )
    return replace(record, image2=record.image1, regions2=record.regions1)
