"""Segments: questions and answers about an image, and their token ids on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.conversation import REGION_SLOT, Prompt, Tokens, tokenise
from maskcap.models.conversation import Piece as PromptPiece

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM
    from maskcap.vision_tokens.layout import TokenLayout


@dataclass(frozen=True)
class Segment:
    """One question and answer about one image.

    prompt: what stands before the answer, may hold REGION_SLOT once. answer: what to learn, None to generate. Texts of
    the data stand in them as Words. An answer that is the model's own (Tokens) is taken with the end that it has, or
    without one. region: whose tokens stand at REGION_SLOT, an index into the regions' tokens.
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


@dataclass(frozen=True)
class Piece:
    """A segment's token ids int64 (n,), the region's slot repeated; its answer begins at `answer`.

    region: of its region's tokens, which stand from `region_at` on, the entry of `RegionTokens.positions`; None: they
    stand one after the other as text.
    """

    ids: np.ndarray
    answer: int
    region: tuple[np.ndarray, int] | None = None
    region_at: int = 0

    def positions(self, before: Before) -> np.ndarray:
        """int64 (A, n), A = 1 or 3, from the prefix's end on.

        With M-RoPE a region stands as a second image of which only its tokens are shown: where each looks is in its
        position, and the text goes on behind the whole image.
        """
        if self.region is None:
            return np.arange(before.end, before.end + len(self.ids))[None]
        (places, span), start = self.region, before.end + self.region_at
        head, tail = np.arange(before.end, start), np.arange(len(self.ids) - self.region_at - places.shape[1])
        text = [np.broadcast_to(part, (len(places), part.size)) for part in (head, start + span + tail)]
        return np.concatenate([text[0], start + places, text[1]], axis=1)


@dataclass(frozen=True)
class Before:
    """What stands before segments: token ids int64 (P,) and positions int64 (A, P), A = 1, or 3 with M-RoPE.

    end: the position after it. read: how many tokens a cache holds of it, when `ids` is empty for that reason.
    """

    ids: np.ndarray
    positions: np.ndarray
    end: int
    read: int = 0

    def cached(self) -> Before:
        """The same with all of its tokens in a cache."""
        return Before(self.ids[:0], self.positions[:, :0], self.end, len(self.ids))


def text_before(ids: np.ndarray) -> Before:
    """Of tokens that stand one after the other."""
    return Before(ids, np.arange(len(ids))[None], len(ids))


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
        positions = [each for part in regions for each in part.positions or [None] * len(part.counts)]
        known = any(part.positions for part in regions)
        joined = RegionTokens(torch.cat([part.features for part in regions]), counts, positions if known else None)
    return Questions(segments, joined, any(questions.image_states for questions in asked))


def pieces_of(vlm: VLM, segments: Sequence[Segment], regions: RegionTokens | None) -> list[Piece]:
    """Token ids of the segments, without their prefixes; the tokenizer is called once for all of them."""
    answers = [_answer(vlm, segment) for segment in segments]
    ids = tokenise(vlm.tokenizer, [*(segment.prompt for segment in segments), *answers])
    prompts, answers = ids[: len(segments)], ids[len(segments) :]
    slot = vlm.tokenizer.convert_tokens_to_ids(REGION_SLOT)
    pieces = []
    for segment, prompt, answer in zip(segments, prompts, answers, strict=True):
        positions, at = None, 0
        if segment.region is not None and regions is not None and slot in prompt:
            at = prompt.index(slot)
            prompt = repeat(prompt, slot, regions.counts[segment.region])
            positions = None if regions.positions is None else regions.positions[segment.region]
        pieces.append(Piece(np.array(prompt + answer, dtype=np.int64), len(prompt), positions, at))
    return pieces


def image_slot(vlm: VLM) -> int:
    """Id of the token at whose place the image's tokens stand."""
    return vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.image_slot)


def prefix_ids(vlm: VLM, tokens_per_image: int) -> np.ndarray:
    """Ids int64 (P,) of what stands before the segments, with as many image slots."""
    (ids,) = tokenise(vlm.tokenizer, [vlm.conversation.prefix])
    return np.array(repeat(ids, image_slot(vlm), tokens_per_image), dtype=np.int64)


def prefixes_of(vlm: VLM, layouts: Sequence[TokenLayout], images: Iterable[int]) -> dict[tuple[int, bool], Before]:
    """Each image's prefix with its tokens, of images with a layout, and without, of the other `images` too."""
    ids = prefix_ids(vlm, 1)
    at = int((ids == image_slot(vlm)).argmax())
    without = text_before(np.delete(ids, at))
    of_layout = {each: _around_image(ids, at, *vlm.image_positions(each)) for each in dict.fromkeys(layouts)}
    found = {(image, True): of_layout[layout] for image, layout in enumerate(layouts)}
    return found | {(image, False): without for image in {*range(len(layouts)), *images}}


def _around_image(ids: np.ndarray, at: int, image: np.ndarray, span: int) -> Before:
    """The prefix with the image's tokens at the slot; image int64 (A, T): their positions; span: how many they take."""
    head, tail = np.arange(at), np.arange(at + span, at + span + len(ids) - at - 1)
    text = [np.broadcast_to(part, (len(image), part.size)) for part in (head, tail)]
    repeated = np.concatenate([ids[:at], np.full(image.shape[1], ids[at]), ids[at + 1 :]])
    return Before(repeated, np.concatenate([text[0], at + image, text[1]], axis=1), at + span + len(tail))


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
    if any(isinstance(piece, Tokens) for piece in pieces):
        return pieces
    joined: list[PromptPiece] = []
    for piece in [*pieces, vlm.conversation.end]:
        # neighbouring template pieces in one, as a tokenizer may treat the start of a text apart
        if joined and isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
