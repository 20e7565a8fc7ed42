"""The one place where the language model's sequences are made: prefix + segments → embeddings, mask, labels.

Shapes: N rows, L their length, C width, S segments, A answer tokens of all segments, B images, T image tokens,
n_r tokens of region r.

`packing.py` says which segments share a row. Everything is worked out on the host and copied over at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskcap.models.conversation import REGION_SLOT, SEG
from maskcap.models.packing import Grid, Kept, Packing, Tree, lay_out, plan_rows
from maskcap.models.segments import (
    Before,
    Piece,
    Questions,
    RegionTokens,
    Segment,
    check_lengths,
    image_slot,
    pieces_of,
    prefix_ids,
    prefixes_of,
)
from maskcap.models.transfer import to_device
from maskcap.models.tree_attention import TreeMask
from maskcap.vision_tokens.limits import Template, check_fits

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM, ImageTokens
    from maskcap.models.work import Work


@dataclass(frozen=True)
class Prefix:
    """The prefixes of B images as the language model read them, to generate from.

    keys, values: one (B, heads, P, width) tensor a layer. states (B, T, C): last hidden states at the image tokens.
    mask int64 (B, P): 1 for what was read, 0 for the padding on the left of shorter prefixes.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    states: torch.Tensor
    mask: torch.Tensor

    @property
    def length(self) -> int:
        """P, tokens."""
        return self.keys[0].shape[2]


@dataclass(frozen=True)
class Sequences:
    """N rows on the device.

    inputs_embeds (N, L, C); position_ids int64 (N, L), or (3, N, L) with M-RoPE.
    attention: int64 (N, L), 1 for real tokens, of rows that are plain causal sequences; a TreeMask of packed trees.
    answer_positions int64 (A,): indices in N·L of the states that predict the answers' tokens, segment by segment;
    answer_ids int64 (A,): these tokens, the labels of the caption loss; answer_counts: tokens of each segment's answer.
    seg_positions: index in N·L of each segment's [SEG], in order, of those that have one; seg_counts: 0 or 1 each.
    image_positions int64 (B·T,): indices in N·L of every image's tokens, in image order, 0 for the padding of images
    with fewer; empty unless asked for.
    prefix, of_images int64 (N,): the rows hold segments alone, each goes on from the prefix of its image.
    """

    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    attention: torch.Tensor | TreeMask
    answer_positions: torch.Tensor
    answer_ids: torch.Tensor
    answer_counts: list[int]
    seg_positions: torch.Tensor
    seg_counts: list[int]
    image_positions: torch.Tensor
    prefix: Prefix | None = None
    of_images: torch.Tensor | None = None


def build_sequences(
    vlm: VLM,
    questions: Questions,
    tokens: ImageTokens | None,
    *,
    packing: Packing = "tree",
    token_budget: int | None = None,
    max_length: int | None = None,
    work: Work | None = None,
) -> Sequences:
    """Lay out the questions' segments for training. Nothing waits for the device.

    tokens: of the images; None where no segment keeps its image. token_budget: see `packing.plan_rows`.
    work: counts the tokens. Raises SequenceTooLongError, naming the segment, when one is longer than `max_length` with
    its prefix.
    """
    segments = questions.segments
    images = len(tokens.layouts) if tokens is not None else 0
    prefixes = _prefixes(vlm, tokens, segments)
    before = _lengths(prefixes)
    pieces = pieces_of(vlm, segments, questions.regions)
    lengths = [
        before[segment.image, segment.keep_image] + len(piece.ids)
        for segment, piece in zip(segments, pieces, strict=True)
    ]
    _check_lengths(segments, lengths, max_length, tokens)
    needed = images if questions.image_states and packing == "tree" else 0
    rows = plan_rows(segments, pieces, before, packing, token_budget, needed)
    grid = lay_out(rows, pieces, prefixes, vlm.tokenizer.pad_token_id)
    _count(work, grid)
    return _on_device(vlm, _Host(grid, pieces, packing, needed), questions, tokens)


def build_prefixes(vlm: VLM, tokens: ImageTokens, work: Work | None = None) -> Sequences:
    """One left-padded row an image that holds the prefix alone; `image_positions` are its image tokens."""
    prefixes = _prefixes(vlm, tokens, [])
    images = len(tokens.layouts)
    rows = [[Tree(image, True, (), len(prefixes[image, True].ids))] for image in range(images)]
    grid = lay_out(rows, [], prefixes, vlm.tokenizer.pad_token_id, padding="left")
    _count(work, grid)
    return _on_device(vlm, _Host(grid, [], "none", images), Questions(), tokens)


def build_continuations(
    vlm: VLM,
    questions: Questions,
    tokens: ImageTokens,
    prefix: Prefix | None,
    *,
    max_length: int | None = None,
    reserve: int = 0,
) -> Sequences:
    """Left-padded rows to generate from, one a segment: whole sequences, or segments that go on from `prefix`.

    reserve: tokens of what will be generated that count against `max_length` too. Raises
    SequenceTooLongError as `build_sequences`.
    """
    segments = questions.segments
    whole = _prefixes(vlm, tokens, segments)
    pieces = pieces_of(vlm, segments, questions.regions)
    lengths = [
        len(whole[s.image, True].ids) + len(piece.ids) + reserve for s, piece in zip(segments, pieces, strict=True)
    ]
    _check_lengths(segments, lengths, max_length, tokens)
    prefixes = whole if prefix is None else {kept: before.cached() for kept, before in whole.items()}
    rows = plan_rows(segments, pieces, _lengths(prefixes), "none")
    grid = lay_out(rows, pieces, prefixes, vlm.tokenizer.pad_token_id, padding="left")
    sequences = _on_device(vlm, _Host(grid, pieces, "none", 0), questions, tokens if prefix is None else None)
    if prefix is None:
        return sequences
    images = torch.tensor([segment.image for segment in segments])
    (of_images,) = to_device([images], sequences.inputs_embeds.device)
    return replace(sequences, prefix=prefix, of_images=of_images)


@dataclass(frozen=True)
class _Host:
    """What is worked out before anything is on the device; image_states: of how many images they are wanted."""

    grid: Grid
    pieces: list[Piece]
    packing: Packing
    image_states: int


def _prefixes(vlm: VLM, tokens: ImageTokens | None, segments: Sequence[Segment]) -> dict[Kept, Before]:
    """Each image's prefix with its tokens and without."""
    return prefixes_of(vlm, tokens.layouts if tokens is not None else (), {segment.image for segment in segments})


def _lengths(prefixes: dict[Kept, Before]) -> dict[Kept, int]:
    return {kept: len(before.ids) for kept, before in prefixes.items()}


def _check_lengths(
    segments: Sequence[Segment], lengths: Sequence[int], max_length: int | None, tokens: ImageTokens | None
) -> None:
    """As `check_lengths`; of an image in crops the message says how many there may be."""
    if max_length is not None and max(lengths, default=0) > max_length and tokens is not None and tokens.geometry:
        worst = max(range(len(lengths)), key=lengths.__getitem__)
        layout, name = tokens.layouts[segments[worst].image], segments[worst].name or f"segment {worst}"
        if segments[worst].keep_image and layout.tiling is not None:
            template, whole = Template(0, 0), layout.has_global_view
            check_fits(lengths[worst], max_length, name, *layout.tiling, tokens.geometry, template, whole)
    check_lengths(segments, lengths, max_length)


def _count(work: Work | None, grid: Grid) -> None:
    if work is not None:
        work.tokens += grid.tokens
        work.slots += grid.ids.size
        work.pairs += grid.pairs


def _on_device(vlm: VLM, host: _Host, questions: Questions, tokens: ImageTokens | None) -> Sequences:
    """Copy the grid over in one piece and put images and regions into its embeddings."""
    grid, pieces = host.grid, host.pieces
    find = vlm.tokenizer.convert_tokens_to_ids
    region_at, _ = _inside(grid, pieces, find(REGION_SLOT), before_answer=True)
    seg_at, seg_counts = _inside(grid, pieces, find(SEG), before_answer=False)
    answer_at, answer_counts = _answers(grid, pieces)
    image_at, image_rows, states_at = _image_slots(vlm, grid, tokens, host.image_states)
    tree = [grid.tree, grid.branch] if host.packing == "tree" else [(grid.tree >= 0).astype(np.int64)]
    arrays = [grid.ids, grid.positions, answer_at - 1, grid.ids.reshape(-1)[answer_at], seg_at, states_at]
    arrays += [image_at, image_rows, region_at, *tree]
    device = next(vlm.parameters()).device  # type: ignore[attr-defined]
    copied = to_device([torch.from_numpy(array) for array in arrays], device)
    ids, positions, answer_positions, answer_ids, seg_positions, image_positions, *rest = copied
    slots, image_row, region_slots, *mask = rest
    embeds_NLC = vlm.embed(ids)
    flat = embeds_NLC.flatten(0, 1)
    if tokens is not None and image_at.size:
        flat = flat.index_copy(0, slots, tokens.features.flatten(0, 1).index_select(0, image_row).to(flat.dtype))
    if questions.regions is not None and region_at.size:
        flat = flat.index_copy(0, region_slots, _region_rows(questions.segments, questions.regions).to(flat.dtype))
    return Sequences(
        inputs_embeds=flat.view_as(embeds_NLC),
        position_ids=positions,
        attention=TreeMask(mask[0], mask[1]) if host.packing == "tree" else mask[0],
        answer_positions=answer_positions,
        answer_ids=answer_ids,
        answer_counts=answer_counts,
        seg_positions=seg_positions,
        seg_counts=seg_counts,
        image_positions=image_positions,
    )


def _inside(grid: Grid, pieces: Sequence[Piece], token: int, *, before_answer: bool) -> tuple[np.ndarray, list[int]]:
    """Indices in N·L of a special token in the segments' prompts, or answers, segment by segment; how many in each."""
    found = []
    for start, piece in zip(grid.segment_starts, pieces, strict=True):
        first, last = (0, piece.answer) if before_answer else (piece.answer, len(piece.ids))
        found.append(start + first + np.flatnonzero(piece.ids[first:last] == token))
    return _joined(found), [len(part) for part in found]


def _answers(grid: Grid, pieces: Sequence[Piece]) -> tuple[np.ndarray, list[int]]:
    """Indices in N·L of the answers' tokens, segment by segment; how many in each."""
    found = [
        np.arange(start + piece.answer, start + len(piece.ids))
        for start, piece in zip(grid.segment_starts, pieces, strict=True)
    ]
    return _joined(found), [len(part) for part in found]


def _image_slots(
    vlm: VLM, grid: Grid, tokens: ImageTokens | None, image_states: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices in N·L of all image slots, the row of the features (B·T) that stands in each, and the indices of every
    image's first copy, in image order and padded, where its states are wanted."""
    counts = tokens.counts if tokens is not None else []
    kept = [(image, start) for image, keep, start in grid.prefixes if keep and counts]
    first = {image: start for image, start in reversed(kept)}
    before = int((prefix_ids(vlm, 1) == image_slot(vlm)).argmax())  # the slots follow each other
    longest = max(counts, default=0)
    at = _joined([start + before + np.arange(counts[image]) for image, start in kept])
    rows = _joined([image * longest + np.arange(counts[image]) for image, _ in kept])
    states = [np.pad(first[i] + before + np.arange(counts[i]), (0, longest - counts[i])) for i in range(image_states)]
    return at, rows, _joined(states)


def _region_rows(segments: Sequence[Segment], regions: RegionTokens) -> torch.Tensor:
    """Region tokens in the order in which the segments use them."""
    used = [segment.region for segment in segments if segment.region is not None]
    if used == list(range(len(regions.counts))):
        return regions.features
    parts = regions.features.split(regions.counts)
    return torch.cat([parts[region] for region in used])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
