"""The language model's reading of segments, and what each loop takes from it.

Shapes: N rows, L their length, C width, S segments, A answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from maskcap.models.sequence import Sequences


@dataclass(frozen=True)
class Reading:
    """States (N·L, C) of the rows that hold segments `first` … `last` − 1, perhaps beside others."""

    states: torch.Tensor
    sequences: Sequences
    first: int
    last: int

    @property
    def seg_states(self) -> torch.Tensor:
        """(r, C): the states at the [SEG]s, segment by segment, in order."""
        counts = self.sequences.seg_counts
        return self.states.index_select(0, self._span(self.sequences.seg_positions, counts))

    @property
    def seg_counts(self) -> list[int]:
        """How many [SEG]s each segment has."""
        return self.sequences.seg_counts[self.first : self.last]

    @property
    def answer_counts(self) -> list[int]:
        """How many tokens each segment's answers have."""
        return self.sequences.answer_counts[self.first : self.last]

    @property
    def answer_states(self) -> torch.Tensor:
        """(A, C): the states that predict the answers' tokens, segment by segment."""
        return self.states.index_select(0, self._span(self.sequences.answer_positions, self.sequences.answer_counts))

    @property
    def answer_ids(self) -> torch.Tensor:
        """int64 (A,): these tokens."""
        return self._span(self.sequences.answer_ids, self.sequences.answer_counts)

    def part(self, first: int, last: int) -> Reading:
        """The same of segments `first` … `last` − 1."""
        return Reading(self.states, self.sequences, first, last)

    def _span(self, values: torch.Tensor, counts: list[int]) -> torch.Tensor:
        return values[sum(counts[: self.first]) : sum(counts[: self.last])]
