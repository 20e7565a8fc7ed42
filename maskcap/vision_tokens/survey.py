"""What a rule makes of the images of a data set: how many take each tiling, and how well a list of sizes fits them.

Only sizes are needed, so nothing is decoded. Every average is over images, each counted once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from maskcap.data.checks.histograms import Histogram, ratio_edges
from maskcap.data.record import ImageRef, Record
from maskcap.errors import DataError
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.rule import TilingRule, crops_for
from maskcap.vision_tokens.tiling import fit, image_sizes_nearest
from maskcap.vision_tokens.views import padding_share

Size = tuple[int, int]  # height and width, px
Sizes = Mapping[Size, int]  # → how many images have it
T = TypeVar("T")


@dataclass
class Sample:
    """Uniform draws from a stream of unknown length, `size` of them at most, without repeats (algorithm R)."""

    size: int
    rng: np.random.Generator
    drawn: list[ImageRef] = field(default_factory=list)
    seen: int = 0

    def offer(self, ref: ImageRef) -> None:
        """The stream's next image."""
        self.seen += 1
        if len(self.drawn) < self.size:
            self.drawn.append(ref)
        elif (place := int(self.rng.integers(self.seen))) < self.size:
            self.drawn[place] = ref


@dataclass
class Gathered:
    """Sizes of distinct images as their records come in, and some images of each number of crops.

    choose: height, width → tiling. sample: images kept of each number of crops. bad: records that cannot be read.
    """

    choose: Callable[[int, int], tuple[int, int]]
    sample: int
    rng: np.random.Generator
    sizes: Counter[Size] = field(default_factory=Counter)
    images: int = 0
    records: int = 0
    bad: int = 0
    by_crops: dict[int, Sample] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)
    _tilings: dict[Size, tuple[int, int]] = field(default_factory=dict)

    def add(self, source: Sequence[Record], index: int) -> None:
        """Count a record's image, both of a pair, all frames of a video; one that came before (in another record or
        source) is left out."""
        self.records += 1
        try:
            record = source[index]
        except DataError:
            self.bad += 1
            return
        if any(min(ref.height, ref.width) < 1 for ref in record.image_refs):
            self.bad += 1
            return
        for ref in record.image_refs:
            if (name := hash((str(ref.path), ref.frame))) not in self._seen:
                self._seen.add(name)
                self._count(ref)

    def _count(self, ref: ImageRef) -> None:
        size = ref.height, ref.width
        self.sizes[size] += 1
        self.images += 1
        if size not in self._tilings:
            self._tilings[size] = self.choose(*size)
        crops = math.prod(self._tilings[size])
        self.by_crops.setdefault(crops, Sample(self.sample, self.rng)).offer(ref)

    def evenly(self) -> Iterator[tuple[int, ImageRef]]:
        """(crops, image) of the kept ones: one of each number of crops, fewest first, then a second of each …"""
        for turn in range(self.sample):
            for crops in sorted(self.by_crops):
                if turn < len(self.by_crops[crops].drawn):
                    yield crops, self.by_crops[crops].drawn[turn]


@dataclass(frozen=True)
class Fitness:
    """How images fit the canvases they are put on.

    share: of the data set's images. aspect_error: mean |ln(image's aspect ratio / canvas's)|. padding: mean share of
    the canvas that is padding. Both None without images.
    """

    images: int
    share: float
    aspect_error: float | None
    padding: float | None


def fitness(sizes: Sizes, choose: Callable[[int, int], tuple[int, int]], geometry: Geometry, of: int) -> Fitness:
    """Of images of these `sizes` under `choose` (height, width → tiling), out of `of` images in all."""
    count, error, padding = 0, 0.0, 0.0
    for (height, width), images in sizes.items():
        canvas = geometry.canvas(*choose(height, width))
        count += images
        error += images * abs(math.log(width / height * canvas[0] / canvas[1]))
        padding += images * padding_share(fit(height, width, canvas), canvas)
    if not count:
        return Fitness(0, 0.0, None, None)
    return Fitness(count, count / of, error / count, padding / count)


@dataclass(frozen=True)
class ListEntry:
    """An entry of a size or token list with its crops, the tilings of the images that take it, and how it fits them."""

    entry: str
    crops: int
    tilings: Mapping[tuple[int, int], int]
    fit: Fitness


def judge_list(sizes: Sizes, rule: TilingRule) -> list[ListEntry]:
    """Each entry of the rule's `vision_tokens` or `image_sizes` in the list's order; [] where it has neither."""
    if rule.sizes:
        entries = {f"{height}x{width}": math.prod(rule.choose(height, width)) for height, width in rule.sizes}
        grouped = _grouped(sizes, lambda height, width: "{}x{}".format(*image_sizes_nearest(height, width, rule.sizes)))
    elif rule.targets:
        entries = {str(target): crops_for(target, rule.geometry, rule.global_view) for target in rule.targets}
        grouped = _grouped(
            sizes, lambda height, width: str(rule.geometry.slots(*rule.choose(height, width), rule.global_view))
        )
    else:
        return []
    whole = sum(sizes.values())
    return [
        ListEntry(entry, crops, tiling_counts(part, rule), fitness(part, rule.choose, rule.geometry, whole))
        for entry, crops in entries.items()
        for part in [grouped.get(entry, {})]
    ]


def list_of_crops(crops: Sequence[int], geometry: Geometry) -> TilingRule:
    """The rule by which each image takes that number of crops whose tiling fits it best."""
    return TilingRule(geometry, vision_tokens=[geometry.crop_tokens * (count + 1) for count in crops])


def tiling_counts(sizes: Sizes, rule: TilingRule) -> dict[tuple[int, int], int]:
    """Images of each tiling, fewest crops first, then fewest rows."""
    counts = {tiling: sum(part.values()) for tiling, part in _grouped(sizes, rule.choose).items()}
    return dict(sorted(counts.items(), key=lambda item: (math.prod(item[0]), item[0])))


def weighted_mean(counts: Mapping[tuple[int, int], int], value: Callable[[int, int], float]) -> float | None:
    """Mean over images of what a tiling has; None without images."""
    whole = sum(counts.values())
    return sum(images * value(*tiling) for tiling, images in counts.items()) / whole if whole else None


@dataclass(frozen=True)
class Survey:
    """A data set under a rule. rule, entries: as in `judge_list`, of the list that was judged; `listed` names it.

    images: distinct ones. aspect: width ÷ height. tilings: images of each. fit: of the rule; list_fit: of the list.
    """

    rule: TilingRule
    global_view: bool
    images: int
    records: int
    bad: int
    sizes: int
    aspect: Histogram
    tilings: Mapping[tuple[int, int], int]
    fit: Fitness
    listed: str
    entries: Sequence[ListEntry]
    list_fit: Fitness

    def kept(self, rows: int, columns: int) -> int:
        """Tokens of an image that the language model reads."""
        return self.rule.geometry.kept(rows, columns, self.global_view)

    def slots(self, rows: int, columns: int) -> int:
        """Tokens of an image that the vision encoder computes."""
        return self.rule.geometry.slots(rows, columns, self.global_view)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        tilings = [
            {
                "rows": rows,
                "columns": columns,
                "crops": rows * columns,
                "images": images,
                "share": images / self.images,
                "slots": self.slots(rows, columns),
                "kept": self.kept(rows, columns),
            }
            for (rows, columns), images in self.tilings.items()
        ]
        return {
            "images": self.images,
            "records": self.records,
            "bad_records": self.bad,
            "distinct_sizes": self.sizes,
            "mean_slots": weighted_mean(self.tilings, self.slots),
            "mean_kept": weighted_mean(self.tilings, self.kept),
            "fit": asdict(self.fit),
            "tilings_taken": tilings,
            "list": {
                "of": self.listed,
                "whole": asdict(self.list_fit),
                "entries": [entry_facts(entry) for entry in self.entries],
            },
            "aspect_ratio": self.aspect.to_json(),
        }


def survey(gathered: Gathered, rule: TilingRule, compare: Sequence[int], global_view: bool = True) -> Survey:
    """Judge `rule`, and the list that it names; where it names none, `list_of_crops(compare)`."""
    sizes = gathered.sizes
    named = "image_sizes" if rule.sizes else "vision_tokens" if rule.targets else None
    other = rule if named else list_of_crops(compare, rule.geometry)
    aspect = Histogram(ratio_edges(2**-4.0625, 2**4.0625, 8))  # 1:1, 2:1 … in the middle of a bin
    for (height, width), images in sizes.items():
        aspect.add([width / height] * images)
    return Survey(
        rule,
        global_view,
        images=gathered.images,
        records=gathered.records,
        bad=gathered.bad,
        sizes=len(sizes),
        aspect=aspect,
        tilings=tiling_counts(sizes, rule),
        fit=fitness(sizes, rule.choose, rule.geometry, gathered.images),
        listed=named or f"{', '.join(map(str, compare))} crops",
        entries=judge_list(sizes, other),
        list_fit=fitness(sizes, other.choose, rule.geometry, gathered.images),
    )


def entry_facts(entry: ListEntry) -> dict[str, Any]:
    """Plain values for a JSON file."""
    tilings = {f"{rows}x{columns}": images for (rows, columns), images in entry.tilings.items()}
    return {"entry": entry.entry, "crops": entry.crops, **asdict(entry.fit), "tilings": tilings}


def _grouped(sizes: Sizes, key: Callable[[int, int], T]) -> dict[T, dict[Size, int]]:
    groups: dict[T, dict[Size, int]] = {}
    for size, images in sizes.items():
        groups.setdefault(key(*size), {})[size] = images
    return groups
