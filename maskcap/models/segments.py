"""Segments: what is asked of the language model about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.conversation import Prompt


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    prompt: what stands before the answer; REGION_SLOT in it stands for a region's tokens. answer: what to learn, None
    to generate. Texts of the data stand in them as Words. An answer that is the model's own (Tokens) is taken with the
    end that it has, or without one.
    """

    prompt: Prompt
    answer: Prompt | None = None


@dataclass(frozen=True)
class Segment:
    """Questions and answers behind one prefix.

    image: the prefix, by the number of the first image that it shows. regions: whose tokens stand at the REGION_SLOTs,
    in their order, indices into the regions' tokens. keep_image: whether the prefix holds the images' tokens.
    name: for error messages.
    """

    image: int
    exchanges: tuple[Exchange, ...]
    regions: tuple[int, ...] = ()
    keep_image: bool = True
    name: str = ""


def one_turn(
    image: int,
    prompt: Prompt,
    answer: Prompt | None = None,
    regions: tuple[int, ...] = (),
    keep_image: bool = True,
    name: str = "",
) -> Segment:
    """A segment of one question and its answer; see `Segment` and `Exchange`."""
    return Segment(image, (Exchange(prompt, answer),), regions, keep_image, name)


@dataclass(frozen=True)
class RegionTokens:
    """The regions' tokens: `features` (Σ n_r, C), in region order, and the n_r.

    positions: of a model with M-RoPE, each region's int64 (3, n_r), those of the image's tokens that its tokens are
    copies of, from the image's first on, and how many positions the whole image takes; None for tokens of no image,
    which stand as text.
    """

    features: torch.Tensor
    counts: list[int]
    positions: Sequence[tuple[np.ndarray, int] | None] | None = None

    def detached(self) -> RegionTokens:
        """The same tokens, cut off from the graph."""
        return replace(self, features=self.features.detach())


@dataclass(frozen=True)
class Questions:
    """What a loop asks of the language model: segments, the tokens of the regions that they name, and whether the
    states at the images' own tokens are wanted too (every image then has a prefix with its tokens)."""

    segments: list[Segment] = field(default_factory=list)
    regions: RegionTokens | None = None
    image_states: bool = False


def join_questions(asked: Sequence[Questions]) -> Questions:
    """All questions as one, in order: regions are numbered on."""
    segments: list[Segment] = []
    regions: list[RegionTokens] = []
    offset = 0
    for questions in asked:
        shift = offset
        segments += [
            replace(segment, regions=tuple(region + shift for region in segment.regions))
            for segment in questions.segments
        ]
        if questions.regions is not None:
            regions.append(questions.regions)
            offset += len(questions.regions.counts)
    joined = None
    if len(regions) == 1:
        joined = regions[0]
    elif regions:
        counts = [count for part in regions for count in part.counts]
        positions = [each for part in regions for each in part.positions or [None] * len(part.counts)]
        known = any(part.positions for part in regions)
        joined = RegionTokens(torch.cat([part.features for part in regions]), counts, positions if known else None)
    return Questions(segments, joined, any(questions.image_states for questions in asked))


def check_lengths(segments: Sequence[Segment], lengths: Sequence[int], max_length: int | None) -> None:
    """Raises SequenceTooLongError, naming the longest segment, when it and its prefix have over `max_length` tokens."""
    if max_length is None or not lengths or max(lengths) <= max_length:
        return
    worst = max(range(len(lengths)), key=lengths.__getitem__)
    raise SequenceTooLongError(
        f"{segments[worst].name or f'segment {worst}'} needs {lengths[worst]} tokens with its image; the limit "
        f"is {max_length}. Raise mask_caption.max_length or lower the vision-token budget."
    )
