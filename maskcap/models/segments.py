"""Segments: questions and answers about an image, and their token ids on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.conversation import IMAGE_SLOT, REGION_SLOT, Prompt, Words, tokenise

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM


@dataclass(frozen=True)
class Segment:
    """One question and answer about one image.

    prompt: what stands before the answer, may hold REGION_SLOT once. answer: what to learn, None to generate. Texts of
    the data stand in them as Words. region: whose tokens stand at REGION_SLOT, an index into the regions' tokens.
    keep_image: whether the prefix before it holds the image's tokens. name: for error messages.
    """

    image: int
    prompt: Prompt
    answer: Prompt | None = None
    region: int | None = None
    keep_image: bool = True
    name: str = ""


@dataclass(frozen=True)
class RegionTokens:
    """The regions' tokens: `features` (Σ n_r, C), in region order, and the n_r."""

    features: torch.Tensor
    counts: list[int]


@dataclass(frozen=True)
class Questions:
    """What a loop asks of the language model: segments, the tokens of the regions that they name, and whether the
    states at the images' own tokens are wanted too (every image then has a prefix with its tokens)."""

    segments: list[Segment] = field(default_factory=list)
    regions: RegionTokens | None = None
    image_states: bool = False


@dataclass(frozen=True)
class Piece:
    """A segment's token ids int64 (n,), the region's slot repeated; its answer begins at `answer`."""

    ids: np.ndarray
    answer: int


def join_questions(asked: Sequence[Questions]) -> Questions:
    """All questions as one, in order: regions are numbered on."""
    segments: list[Segment] = []
    regions: list[RegionTokens] = []
    offset = 0
    for questions in asked:
        shift = offset
        segments += [
            segment if segment.region is None else replace(segment, region=segment.region + shift)
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
        joined = RegionTokens(torch.cat([part.features for part in regions]), counts)
    return Questions(segments, joined, any(questions.image_states for questions in asked))


def pieces_of(vlm: VLM, segments: Sequence[Segment], regions: RegionTokens | None) -> list[Piece]:
    """Token ids of the segments, without their prefixes; the tokenizer is called once for all of them."""
    answers = [_answer(vlm, segment) for segment in segments]
    ids = tokenise(vlm.tokenizer, [*(segment.prompt for segment in segments), *answers])
    prompts, answers = ids[: len(segments)], ids[len(segments) :]
    slot = vlm.tokenizer.convert_tokens_to_ids(REGION_SLOT)
    pieces = []
    for segment, prompt, answer in zip(segments, prompts, answers, strict=True):
        if segment.region is not None and regions is not None:
            prompt = repeat(prompt, slot, regions.counts[segment.region])
        pieces.append(Piece(np.array(prompt + answer, dtype=np.int64), len(prompt)))
    return pieces


def prefix_ids(vlm: VLM, tokens_per_image: int) -> np.ndarray:
    """Ids int64 (P,) of what stands before the segments, with as many image slots."""
    (ids,) = tokenise(vlm.tokenizer, [vlm.conversation.prefix])
    return np.array(repeat(ids, vlm.tokenizer.convert_tokens_to_ids(IMAGE_SLOT), tokens_per_image), dtype=np.int64)


def check_lengths(segments: Sequence[Segment], lengths: Sequence[int], max_length: int | None) -> None:
    """Raises SequenceTooLongError, naming the longest segment, when it and its prefix have over `max_length` tokens."""
    if max_length is None or not lengths or max(lengths) <= max_length:
        return
    worst = max(range(len(lengths)), key=lengths.__getitem__)
    raise SequenceTooLongError(
        f"{segments[worst].name or f'segment {worst}'} needs {lengths[worst]} tokens with its image; the limit "
        f"is {max_length}. Raise mask_caption.max_length or lower the vision-token budget."
    )


def repeat(ids: list[int], slot: int, times: int) -> list[int]:
    """The same ids with every `slot` in them `times` times."""
    if slot not in ids:
        return ids
    return [token for id_ in ids for token in ([id_] * times if id_ == slot else [id_])]


def _answer(vlm: Any, segment: Segment) -> Prompt:
    """The answer with its end as one prompt, nothing where it is to be generated."""
    if segment.answer is None:
        return ""
    pieces = [segment.answer] if isinstance(segment.answer, str) else list(segment.answer)
    joined: list[str | Words] = []
    for piece in [*pieces, vlm.conversation.end]:
        # neighbouring template pieces in one, as a tokenizer may treat the start of a text apart
        if joined and isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
