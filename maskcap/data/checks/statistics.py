"""What a check counts and measures of a source, in bounded memory; parts of a source can be merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskcap.data.bad_samples import BadSample
from maskcap.data.checks.histograms import Histogram, ratio_edges, whole_number_edges

_KEYS = 3  # named for each reason
COUNTS = (
    "records",
    "bad_records",
    "problems",
    "pairs",
    "videos",
    "without_image",
    "images",
    "regions",
    "regions_with_captions",
    "captions",
    "questions",
    "turns",
    "answer_phrases",
    "masks",
    "empty_masks",
    "empty_by_right",
    "kept_as_one_pixel",
    "vanish_on_grid",
)


@dataclass
class Statistics:
    """Counts, histograms and reasons of a source or a part of it.

    counts, of COUNTS: records; bad_records, those with a problem; problems; pairs of frames; videos; without_image:
        records of words alone; images: pictures and frames that were decoded; regions: objects, once in a pair or
        video; questions: captions that answer a question of their own; turns of conversations; answer_phrases: those in
        their answers that have a mask; masks: decoded ones, all frames', of which empty_masks, of which empty_by_right:
        an object that is not in this image or frame, and need not be; kept_as_one_pixel: those that lie between the
        pixels of the S × S mask; vanish_on_grid: those that meet no sample of the token grid, so that the region
        selects its best-covered token instead.
    reasons: reason → problems. first: reason → the keys of its first problems.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=lambda: _histograms())

    def note(self, problem: BadSample) -> None:
        """Count a problem."""
        self.counts["problems"] += 1
        self.reasons[problem.reason] += 1
        self._name(problem.reason, [problem.key])

    def merge(self, other: Statistics) -> None:
        """Count what the other one, of later records, counted."""
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        for reason, keys in other.first.items():
            self._name(reason, keys)
        for name, histogram in self.histograms.items():
            histogram.merge(other.histograms[name])

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file, the most frequent reasons first."""
        return {
            "counts": {name: self.counts[name] for name in COUNTS},
            "reasons": dict(self.reasons.most_common()),
            "first_keys": {reason: self.first[reason] for reason, _ in self.reasons.most_common()},
            "histograms": {name: histogram.to_json() for name, histogram in self.histograms.items()},
        }

    def _name(self, reason: str, keys: Iterable[str]) -> None:
        named = self.first.setdefault(reason, [])
        named += [key for key in dict.fromkeys(keys) if key not in named][: _KEYS - len(named)]


def merged(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all parts together."""
    whole = Statistics()
    for part in parts:
        whole.merge(part)
    return whole


def _histograms() -> dict[str, Histogram]:
    """By name: sides in pixels, aspect width ÷ height, area as a share of the image; turns, answers and frames of the
    records that have any."""
    sides, counts = ratio_edges(1, 2**17, 8), whole_number_edges(2**17)
    edges: dict[str, np.ndarray] = {
        "height": sides,
        "width": sides,
        "aspect_ratio": ratio_edges(1 / 16, 16, 8),
        "regions_per_record": counts,
        "mask_area": ratio_edges(1e-8, 1, 5, 10),
        "captions_per_region": counts,
        "caption_words": counts,
        "turns_per_record": counts,
        "answer_words": counts,
        "phrases_per_answer": counts,
        "frames_per_record": counts,
    }
    return {name: Histogram(each) for name, each in edges.items()}
