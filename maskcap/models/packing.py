"""How segments share rows: trees (a prefix and the segments that hang on it), packed into rows and laid out.

Everything here is numpy on the host. Shapes: N rows, L their length, P tokens of a prefix.

`tree`: one tree a prefix, which shows one image or several. It is read once, a segment attends to the prefix and to
itself only, and its positions start where the prefix ends: every segment's states equal those of a sequence of its own.
Trees are packed into rows, and one whose segments do not fit a row's budget is cut into several, each with the prefix.
`none`: every segment is a tree and a row of its own; the published recipes, and the reference of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from maskcap.errors import ConfigError
from maskcap.models.pieces import Before, Piece
from maskcap.models.segments import Segment

Packing = Literal["tree", "none"]
Kept: TypeAlias = tuple[int, bool]  # a prefix, and whether its images' tokens are kept in it


@dataclass(frozen=True)
class Tree:
    """A prefix, with or without its images' tokens, and its segments by number; `length` in tokens, all of them."""

    image: int
    keep_image: bool
    segments: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Grid:
    """Trees laid out in rows.

    ids, positions int64 (N, L): padding has position 0; with M-RoPE positions are (3, N, L). tree int64 (N, L): the
    token's tree in its row, -1 for padding. branch int64 (N, L): 0 in a prefix, else the number of the segment in its
    tree, from 1.
    segment_starts int64 (S,): index in N·L of each segment's first token.
    prefixes: (prefix, whether its images' tokens are there, index in N·L of the first token) of each tree.
    pairs: (query, key) pairs that the trees' mask allows.
    """

    ids: np.ndarray
    positions: np.ndarray
    tree: np.ndarray
    branch: np.ndarray
    segment_starts: np.ndarray
    prefixes: list[tuple[int, bool, int]]
    pairs: int

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.tree >= 0).sum())


def check_packing(packing: str, token_budget: int | None) -> None:
    """Raises ConfigError for another packing, a budget below 1, or a budget for rows that are not packed."""
    if packing not in ("tree", "none"):
        raise ConfigError(f"mask_caption.packing={packing!r}: expected tree or none")
    if token_budget is not None and token_budget < 1:
        raise ConfigError(f"mask_caption.token_budget={token_budget}: take at least 1, or null for one image a row")
    if token_budget is not None and packing == "none":
        raise ConfigError(f"mask_caption.token_budget={token_budget} needs packing=tree: with none a row is a segment")


def plan_rows(
    segments: Sequence[Segment],
    pieces: Sequence[Piece],
    prefix_lengths: Mapping[Kept, int],
    packing: Packing,
    budget: int | None = None,
    prefixes: int = 0,
) -> list[list[Tree]]:
    """The rows' trees. prefix_lengths: tokens of each prefix with its images' and without.

    budget: tokens of a row, None for as many as the largest tree has. A prefix with one segment may be longer; all rows
    may then be as long. prefixes: how many are needed with their images' tokens even if no segment hangs on them.
    """
    if packing == "none":
        return [[_tree(segments, pieces, prefix_lengths, [number])] for number in range(len(segments))]
    groups: dict[Kept, list[int]] = {(prefix, True): [] for prefix in range(prefixes)}
    for number, segment in enumerate(segments):
        groups.setdefault((segment.image, segment.keep_image), []).append(number)
    trees = []
    for (image, keep_image), numbers in groups.items():
        before = prefix_lengths[image, keep_image]
        room = None if budget is None else budget - before
        for part in _cut(numbers, pieces, room):
            length = before + sum(len(pieces[number].ids) for number in part)
            trees.append(Tree(image, keep_image, tuple(part), length))
    return _first_fit(trees, max([budget or 0, *(tree.length for tree in trees)]))


def lay_out(
    rows: Sequence[Sequence[Tree]],
    pieces: Sequence[Piece],
    prefixes: Mapping[Kept, Before],
    pad_id: int,
    *,
    padding: str = "right",
) -> Grid:
    """The rows' tokens, each token's position, tree and branch. padding: `right` to train, `left` to generate."""
    lengths = [sum(tree.length for tree in row) for row in rows]
    length = max(lengths, default=0)
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    regions = [places for piece in pieces for _, places, _ in piece.regions]
    axes = max([1, *map(len, regions), *(len(before.positions) for before in prefixes.values())])
    positions = np.zeros((axes, *ids.shape), dtype=np.int64)
    tree_of, branch_of = np.full_like(ids, -1), np.zeros_like(ids)
    starts = np.zeros(len(pieces), dtype=np.int64)
    found: list[tuple[int, bool, int]] = []
    pairs = 0
    for n, row in enumerate(rows):
        at = length - lengths[n] if padding == "left" else 0
        for t, tree in enumerate(row):
            before = prefixes[tree.image, tree.keep_image]
            found.append((tree.image, tree.keep_image, n * length + at))
            tree_of[n, at : at + tree.length] = t
            parts = [(before.ids, before.positions)]
            parts += [(pieces[number].ids, pieces[number].positions(before)) for number in tree.segments]
            for branch, (tokens, places) in enumerate(parts):
                pairs += _triangle(len(tokens))
                if branch:
                    starts[tree.segments[branch - 1]] = n * length + at
                    pairs += len(tokens) * (before.read + len(before.ids))
                ids[n, at : at + len(tokens)] = tokens
                positions[:, n, at : at + len(tokens)] = places
                branch_of[n, at : at + len(tokens)] = branch
                at += len(tokens)
    return Grid(ids, positions if axes > 1 else positions[0], tree_of, branch_of, starts, found, pairs)


def _tree(
    segments: Sequence[Segment], pieces: Sequence[Piece], prefix_lengths: Mapping[Kept, int], numbers: list[int]
) -> Tree:
    first = segments[numbers[0]]
    length = prefix_lengths[first.image, first.keep_image] + sum(len(pieces[number].ids) for number in numbers)
    return Tree(first.image, first.keep_image, tuple(numbers), length)


def _cut(numbers: list[int], pieces: Sequence[Piece], room: int | None) -> list[list[int]]:
    """Runs of segments that fit `room` tokens, one segment at least."""
    parts: list[list[int]] = [[]]
    used = 0
    for number in numbers:
        size = len(pieces[number].ids)
        if room is not None and parts[-1] and used + size > room:
            parts.append([])
            used = 0
        parts[-1].append(number)
        used += size
    return parts


def _first_fit(trees: list[Tree], capacity: int) -> list[list[Tree]]:
    """First-fit decreasing: at most 11/9 of the fewest rows + 6/9 (Dósa 2007)."""
    rows: list[list[Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda tree: -tree.length):
        fit = next((n for n, left in enumerate(room) if tree.length <= left), None)
        if fit is None:
            fit = len(rows)
            rows.append([])
            room.append(capacity)
        rows[fit].append(tree)
        room[fit] -= tree.length
    return rows


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
