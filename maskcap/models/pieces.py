"""The token ids and positions of segments, and of the prefixes before them, on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcap.models.conversation import REGION_SLOT, Prompt, Tokens, tokenise
from maskcap.models.conversation import Piece as PromptPiece
from maskcap.models.segments import RegionTokens, Segment

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM
    from maskcap.vision_tokens.layout import TokenLayout


@dataclass(frozen=True)
class Piece:
    """A segment's token ids int64 (n,), the regions' slots repeated; learned bool (n,): those of its answers.

    regions: of each region's tokens, where they begin, and their entry of `RegionTokens.positions`; those without one
    are left out, and stand one after the other as text.
    """

    ids: np.ndarray
    learned: np.ndarray
    regions: tuple[tuple[int, np.ndarray, int], ...] = ()

    def positions(self, before: Before) -> np.ndarray:
        """int64 (A, n), A = 1 or 3, from the prefix's end on.

        With M-RoPE a region stands as a further image of which only its tokens are shown: where each looks is in its
        position, and the text goes on behind the whole image.
        """
        return place_text(len(self.ids), self.regions, before.end)[0]


@dataclass(frozen=True)
class Before:
    """What stands before segments: token ids int64 (P,) and positions int64 (A, P), A = 1, or 3 with M-RoPE.

    end: the position after it. starts: where the tokens of each image that it shows begin in it. read: how many tokens
    a cache holds of it, when `ids` is empty for that reason.
    """

    ids: np.ndarray
    positions: np.ndarray
    end: int
    starts: tuple[int, ...] = ()
    read: int = 0

    def cached(self) -> Before:
        """The same with all of its tokens in a cache."""
        return Before(self.ids[:0], self.positions[:, :0], self.end, read=len(self.ids))


def text_before(ids: np.ndarray) -> Before:
    """Of tokens that stand one after the other."""
    return Before(ids, np.arange(len(ids))[None], len(ids))


def pieces_of(vlm: VLM, segments: Sequence[Segment], regions: RegionTokens | None) -> list[Piece]:
    """Token ids of the segments, without their prefixes; the tokenizer is called once for all of them.

    Raises ValueError where a segment's region slots and its regions differ in number.
    """
    exchanges = [exchange for segment in segments for exchange in segment.exchanges]
    answers = [_answer(vlm, exchange.answer) for exchange in exchanges]
    ids = tokenise(vlm.tokenizer, [*(exchange.prompt for exchange in exchanges), *answers])
    pairs = iter(zip(ids[: len(exchanges)], ids[len(exchanges) :], strict=True))
    slot = vlm.tokenizer.convert_tokens_to_ids(REGION_SLOT)
    return [_piece(segment, [next(pairs) for _ in segment.exchanges], slot, regions) for segment in segments]


def _piece(
    segment: Segment, texts: Sequence[tuple[list[int], list[int]]], slot: int, regions: RegionTokens | None
) -> Piece:
    """Of the ids of its prompts and answers."""
    ids: list[int] = []
    learned: list[bool] = []
    placed: list[tuple[int, np.ndarray, int]] = []
    left = list(segment.regions)
    slots = sum(prompt.count(slot) for prompt, _ in texts)
    if slots != len(left) or (left and regions is None):
        known = 0 if regions is None else len(left)
        raise ValueError(f"{segment.name or 'a segment'} has {slots} slots for the tokens of {known} regions")
    for prompt, answer in texts:
        while regions is not None and slot in prompt:
            at, region = prompt.index(slot), left.pop(0)
            ids += prompt[:at]
            if regions.positions is not None and (places := regions.positions[region]) is not None:
                placed.append((len(ids), *places))
            ids += [slot] * regions.counts[region]
            prompt = prompt[at + 1 :]
        ids += prompt + answer
        learned += [False] * (len(ids) - len(answer) - len(learned)) + [True] * len(answer)
    return Piece(np.array(ids, dtype=np.int64), np.array(learned, dtype=bool), tuple(placed))


def place_text(length: int, images: Sequence[tuple[int, np.ndarray, int]], start: int) -> tuple[np.ndarray, int]:
    """Positions int64 (A, length) of text with images in it, from `start` on, and the position after it.

    images: where the tokens of each begin, their positions int64 (A, T) from the image's first on, and how many
    positions the image takes before the text goes on; A is 1 without images.
    """
    axes = len(images[0][1]) if images else 1
    parts: list[np.ndarray] = []
    done = 0
    for at, places, span in images:
        parts += [np.broadcast_to(np.arange(start, start + at - done), (axes, at - done)), start + at - done + places]
        start, done = start + at - done + span, at + places.shape[1]
    end = start + length - done
    return np.concatenate([*parts, np.broadcast_to(np.arange(start, end), (axes, length - done))], axis=1), end


def image_slot(vlm: VLM) -> int:
    """Id of the token at whose place an image's tokens stand."""
    return vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.image_slot)


def prefix_ids(vlm: VLM, images: int = 1) -> np.ndarray:
    """Ids int64 (P,) of what stands before the segments, with one slot for each image; 0: without any."""
    conversation = vlm.conversation
    text = conversation.prefix + conversation.frame * (images - 1) if images else conversation.no_image
    (ids,) = tokenise(vlm.tokenizer, [text])
    return np.array(ids, dtype=np.int64)


def prefixes_of(
    vlm: VLM, layouts: Sequence[TokenLayout], groups: Sequence[Sequence[int]], prefixes: Iterable[int]
) -> dict[tuple[int, bool], Before]:
    """The prefixes with the tokens of the images of their group, and without, these of the other `prefixes` too."""
    shown = [tuple(layouts[image] for image in group) for group in groups]
    of_layout = {each: vlm.image_positions(each) for each in dict.fromkeys(layouts)}
    ids, slot = {count: prefix_ids(vlm, count) for count in set(map(len, shown))}, image_slot(vlm)
    of_shown = {
        each: _around_images(ids[len(each)], slot, [of_layout[layout] for layout in each])
        for each in dict.fromkeys(shown)
    }
    found = {(prefix, True): of_shown[each] for prefix, each in enumerate(shown)}
    without = text_before(prefix_ids(vlm, 0))
    return found | {(prefix, False): without for prefix in {*range(len(groups)), *prefixes}}


def _around_images(ids: np.ndarray, slot: int, images: Sequence[tuple[np.ndarray, int]]) -> Before:
    """The prefix with the images' tokens at their slots; images: of each its tokens' positions int64 (A, T), and how
    many positions it takes."""
    slots = np.flatnonzero(ids == slot)
    counts = [places.shape[1] for places, _ in images]
    times = np.ones(len(ids), dtype=np.int64)
    times[slots] = counts
    starts = [int(at) + sum(counts[:number]) - number for number, at in enumerate(slots)]
    placed = [(at, *image) for at, image in zip(starts, images, strict=True)]
    positions, end = place_text(int(times.sum()), placed, 0)
    return Before(np.repeat(ids, times), positions, end, tuple(starts))


def _answer(vlm: Any, answer: Prompt | None) -> Prompt:
    """The answer with its end as one prompt, nothing where it is to be generated."""
    if answer is None:
        return ""
    pieces = [answer] if isinstance(answer, str) else list(answer)
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
