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
from maskcap.models.pieces import Before, Piece, pieces_of, prefixes_of
from maskcap.models.segments import Questions, RegionTokens, Segment, check_lengths
from maskcap.models.transfer import to_device
from maskcap.models.tree_attention import TreeMask
from maskcap.vision_tokens.limits import Template, check_fits

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM, ImageTokens
    from maskcap.models.work import Work


@dataclass(frozen=True)
class Prefix:
    """Prefixes as the language model read them, to generate from.

    keys, values: one (prefixes, heads, P, width) tensor a layer. states (B, T, C): last hidden states at the images'
    tokens. mask int64 (prefixes, P): 1 for what was read, 0 for the padding on the left of shorter prefixes.
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
    seg_positions: indices in N·L of the answers' [SEG]s, segment by segment; seg_counts: how many each has.
    image_positions int64 (B, T): indices in N·L of every image's tokens, 0 for the padding of images with fewer; empty
    unless asked for.
    prefix, of_prefixes int64 (N,): the rows hold segments alone, each goes on from one of these.
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
    of_prefixes: torch.Tensor | None = None


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
    prefixes = _prefixes(vlm, tokens, segments)
    before = _lengths(prefixes)
    pieces = pieces_of(vlm, segments, questions.regions)
    lengths = [
        before[segment.image, segment.keep_image] + len(piece.ids)
        for segment, piece in zip(segments, pieces, strict=True)
    ]
    _check_lengths(segments, lengths, max_length, tokens)
    image_states = questions.image_states and packing == "tree" and tokens is not None
    needed = len(tokens.shown) if image_states and tokens is not None else 0
    rows = plan_rows(segments, pieces, before, packing, token_budget, needed)
    grid = lay_out(rows, pieces, prefixes, vlm.tokenizer.pad_token_id)
    _count(work, grid)
    return _on_device(vlm, _Host(grid, pieces, prefixes, packing, image_states), questions, tokens)


def build_prefixes(vlm: VLM, tokens: ImageTokens, work: Work | None = None) -> Sequences:
    """One left-padded row a prefix that holds it alone; `image_positions` are those of all images."""
    prefixes = _prefixes(vlm, tokens, [])
    rows = [[Tree(prefix, True, (), len(prefixes[prefix, True].ids))] for prefix in range(len(tokens.shown))]
    grid = lay_out(rows, [], prefixes, vlm.tokenizer.pad_token_id, padding="left")
    _count(work, grid)
    return _on_device(vlm, _Host(grid, [], prefixes, "none", True), Questions(), tokens)


def build_continuations(
    vlm: VLM,
    questions: Questions,
    tokens: ImageTokens | None,
    prefix: Prefix | None,
    *,
    max_length: int | None = None,
    reserve: int = 0,
) -> Sequences:
    """Left-padded rows to generate from, one a segment: whole sequences, or segments that go on from `prefix`.

    tokens: of the images; None where no segment keeps them. prefix: with the images' tokens, so that all segments keep
    them. reserve: tokens of what will be generated that count against `max_length` too. Raises SequenceTooLongError as
    `build_sequences`.
    """
    segments = questions.segments
    whole = _prefixes(vlm, tokens, segments)
    pieces = pieces_of(vlm, segments, questions.regions)
    lengths = [
        len(whole[segment.image, segment.keep_image].ids) + len(piece.ids) + reserve
        for segment, piece in zip(segments, pieces, strict=True)
    ]
    _check_lengths(segments, lengths, max_length, tokens)
    prefixes = whole if prefix is None else {kept: before.cached() for kept, before in whole.items()}
    rows = plan_rows(segments, pieces, _lengths(prefixes), "none")
    grid = lay_out(rows, pieces, prefixes, vlm.tokenizer.pad_token_id, padding="left")
    host = _Host(grid, pieces, prefixes, "none", False)
    sequences = _on_device(vlm, host, questions, tokens if prefix is None else None)
    if prefix is None:
        return sequences
    numbers = torch.tensor([segment.image for segment in segments])
    (of_prefixes,) = to_device([numbers], sequences.inputs_embeds.device)
    return replace(sequences, prefix=prefix, of_prefixes=of_prefixes)


@dataclass(frozen=True)
class _Host:
    """What is worked out before anything is on the device; image_states: whether they are wanted."""

    grid: Grid
    pieces: list[Piece]
    prefixes: dict[Kept, Before]
    packing: Packing
    image_states: bool


def _prefixes(vlm: VLM, tokens: ImageTokens | None, segments: Sequence[Segment]) -> dict[Kept, Before]:
    """Each prefix with its images' tokens and without."""
    layouts, shown = (tokens.layouts, tokens.shown) if tokens is not None else ((), ())
    return prefixes_of(vlm, layouts, shown, {segment.image for segment in segments})


def _lengths(prefixes: dict[Kept, Before]) -> dict[Kept, int]:
    return {kept: len(before.ids) for kept, before in prefixes.items()}


def _check_lengths(
    segments: Sequence[Segment], lengths: Sequence[int], max_length: int | None, tokens: ImageTokens | None
) -> None:
    """As `check_lengths`; of an image in crops the message says how many there may be."""
    if max_length is not None and max(lengths, default=0) > max_length and tokens is not None and tokens.geometry:
        worst = max(range(len(lengths)), key=lengths.__getitem__)
        layout, name = tokens.layouts[segments[worst].image], segments[worst].name or f"segment {worst}"
        alone = len(tokens.shown[segments[worst].image]) == 1
        if segments[worst].keep_image and alone and layout.tiling is not None:
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
    slot, seg = find(REGION_SLOT), find(SEG)
    region_at, _ = _places(grid, [(piece.ids == slot) & ~piece.learned for piece in pieces])
    seg_at, seg_counts = _places(grid, [(piece.ids == seg) & piece.learned for piece in pieces])
    answer_at, answer_counts = _places(grid, [piece.learned for piece in pieces])
    image_at, image_rows, states_at = _image_slots(host, tokens)
    tree = [grid.tree, grid.branch] if host.packing == "tree" else [(grid.tree >= 0).astype(np.int64)]
    arrays = [grid.ids, grid.positions, answer_at - 1, grid.ids.reshape(-1)[answer_at], seg_at, states_at]
    arrays += [image_at, image_rows, region_at, *tree]
    device = next(vlm.parameters()).device  # type: ignore[attr-defined]
    copied = to_device([torch.from_numpy(array) for array in arrays], device)
    ids, positions, answer_positions, answer_ids, seg_positions, image_positions, *rest = copied
    image_slots, image_row, region_slots, *mask = rest
    embeds_NLC = vlm.embed(ids)
    flat = embeds_NLC.flatten(0, 1)
    if tokens is not None and image_at.size:
        flat = flat.index_copy(0, image_slots, tokens.features.flatten(0, 1).index_select(0, image_row).to(flat.dtype))
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


def _places(grid: Grid, wanted: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Indices in N·L of the wanted tokens of each segment, bool (n,), segment by segment; how many in each."""
    found = [start + np.flatnonzero(each) for start, each in zip(grid.segment_starts, wanted, strict=True)]
    return _joined(found), [len(part) for part in found]


def _image_slots(host: _Host, tokens: ImageTokens | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices in N·L of all image slots, the row of the features (B·T) that stands in each, and (B, T) the indices of
    every image's first copy, padded, where its states are wanted."""
    if tokens is None:
        return _joined([]), _joined([]), np.zeros((0, 0), dtype=np.int64)
    counts, shown = tokens.counts, tokens.shown
    longest = max(counts, default=0)
    copies = [
        (image, at + start)
        for prefix, keep, at in host.grid.prefixes
        if keep
        for image, start in zip(shown[prefix], host.prefixes[prefix, True].starts, strict=True)
    ]
    at = _joined([start + np.arange(counts[image]) for image, start in copies])
    rows = _joined([image * longest + np.arange(counts[image]) for image, _ in copies])
    first = dict(reversed(copies)) if host.image_states else {}
    states = np.zeros((len(first), longest), dtype=np.int64)
    for image, start in first.items():
        states[image, : counts[image]] = start + np.arange(counts[image])
    return at, rows, states


def _region_rows(segments: Sequence[Segment], regions: RegionTokens) -> torch.Tensor:
    """Region tokens in the order in which the segments use them."""
    used = [region for segment in segments for region in segment.regions]
    if used == list(range(len(regions.counts))):
        return regions.features
    parts = regions.features.split(regions.counts)
    return torch.cat([parts[region] for region in used])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
