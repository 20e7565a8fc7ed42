"""A batch with every kind of sample that a mixture has: conversations, videos and texts beside captioned regions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.data.collate import collate
from maskcap.data.drawing import DrawnSamples
from maskcap.data.mixture import Draw
from maskcap.data.sample import Sample
from maskcap.data.source_facts import known_bad
from maskcap.data.turns import grounded_regions, named_regions
from maskcap.errors import MaskcapError

if TYPE_CHECKING:
    from maskcap.data.batch import Batch

_LOOKED_AT = 8  # records of each source: a text without an image need not come first


def kinds_of(sample: Sample) -> set[str]:
    """What a sample has of what a run may have to learn from."""
    found = {
        "captions": any(sample.caption or ()),
        "phrases": any(sample.phrase or ()),
        "questions about regions": bool(named_regions(sample.turns)),
        "grounded answers": bool(grounded_regions(sample.turns)),
        "other conversations": any(not turn.phrases for turn in sample.turns) and not named_regions(sample.turns),
        "videos": sample.frames is not None,
        "texts without an image": sample.blank,
        "masks without words": not sample.turns and not any(sample.caption or ()) and bool(sample.region_ids),
    }
    return {kind for kind, here in found.items() if here}


def batch_of_every_kind(data: Any, images: int) -> tuple[Batch, dict[str, list[str]]]:
    """A batch of the training sources' first records, `images` of them and one more for each kind that these lack, and
    the kinds that each source was seen to have. Raises what reading a record does, which names it."""
    samples = _first_samples(data)
    kinds = {name: sorted(set().union(*map(kinds_of, found))) for name, found in samples.items()}
    left = [sample for found in samples.values() for sample in found]
    chosen: list[Sample] = []
    covered: set[str] = set()
    while left:
        best = max(left, key=lambda sample: len(kinds_of(sample) - covered))
        if len(chosen) >= images and not kinds_of(best) - covered:
            break
        chosen.append(best)
        covered |= kinds_of(best)
        left = [sample for sample in left if sample is not best]
    return collate(chosen), kinds


def _first_samples(data: Any) -> Mapping[str, list[Sample]]:
    """The first samples of each source, one of each set of kinds."""
    sources = data.train_sources
    drawn = DrawnSamples(
        list(sources.values()),
        data.seed,
        data.train_options,
        lambda _: np.zeros((0, 2), np.int64),
        False,
        tuple(sources),
    )
    samples: dict[str, list[Sample]] = {}
    for number, (name, source) in enumerate(sources.items()):
        bad, seen = known_bad(source), []
        for index in islice((i for i in range(len(source)) if i not in bad), _LOOKED_AT):
            made = drawn[Draw(0, 0, number, index)].made
            if isinstance(made, MaskcapError):
                raise made
            assert isinstance(made, Sample)  # another format was refused
            if kinds_of(made) not in [kinds_of(sample) for sample in seen]:
                seen.append(made)
        samples[name] = seen
    return samples
