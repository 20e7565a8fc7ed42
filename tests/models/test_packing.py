"""Rows and trees on the host: what is packed with what, and what each token may attend to."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.models.packing import lay_out, plan_rows
from maskcap.models.pieces import Piece, text_before
from maskcap.models.segments import Segment, one_turn


def pieces(*lengths: int) -> list[Piece]:
    return [
        Piece(np.full(length, 100 + number), np.arange(length) >= length // 2) for number, length in enumerate(lengths)
    ]


def segments(*images: int) -> list[Segment]:
    return [one_turn(image, "") for image in images]


PREFIXES = {(image, keep): text_before(np.arange(1, 6 if keep else 3)) for image in range(9) for keep in (True, False)}
LENGTHS = {kept: len(before.ids) for kept, before in PREFIXES.items()}


def test_one_tree_an_image_and_a_row_for_each_segment_without():
    trees = plan_rows(segments(0, 1, 0), pieces(2, 3, 4), LENGTHS, "tree")
    assert [[(tree.image, tree.segments, tree.length) for tree in row] for row in trees] == [
        [(0, (0, 2), 11)],
        [(1, (1,), 8)],
    ]
    rows = plan_rows(segments(0, 1, 0), pieces(2, 3, 4), LENGTHS, "none")
    assert [[(tree.image, tree.segments) for tree in row] for row in rows] == [[(0, (0,))], [(1, (1,))], [(0, (2,))]]


@pytest.mark.parametrize("seed", range(20))
def test_rows_keep_to_the_budget_and_hold_every_segment_once(seed: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, rng.integers(1, 40))
    images = np.sort(rng.integers(0, 6, len(lengths)))
    budget = int(rng.integers(5, 120))
    rows = plan_rows(segments(*images), pieces(*lengths), LENGTHS, "tree", budget, prefixes=6)
    held = sorted(number for row in rows for tree in row for number in tree.segments)
    assert held == list(range(len(lengths)))
    assert {tree.image for row in rows for tree in row} == set(range(6))  # also those without a segment
    for row in rows:
        for tree in row:
            assert tree.length == 5 + sum(int(lengths[number]) for number in tree.segments)
            assert {int(images[number]) for number in tree.segments} <= {tree.image}
            assert tree.length <= budget or len(tree.segments) <= 1
        allowed = max(budget, 5 + int(max(lengths)))
        assert sum(tree.length for tree in row) <= allowed


def test_several_images_share_a_row():
    rows = plan_rows(segments(0, 1, 2), pieces(2, 3, 4), LENGTHS, "tree", budget=17)
    assert sorted(sorted(tree.image for tree in row) for row in rows) == [[0], [1, 2]]


@pytest.mark.parametrize("padding", ["right", "left"])
def test_the_grid_says_where_everything_is(padding: str):
    parts = pieces(2, 3, 4)
    rows = plan_rows(segments(0, 1, 0), parts, LENGTHS, "tree", prefixes=2)
    grid = lay_out(rows, parts, PREFIXES, pad_id=0, padding=padding)
    first = [1, 2, 3, 4, 5, 100, 100, 102, 102, 102, 102]
    second = [1, 2, 3, 4, 5, 101, 101, 101]
    pad = [0, 0, 0]
    assert grid.ids.tolist() == [first, pad + second if padding == "left" else second + pad]
    assert grid.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert grid.branch[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    shift = 3 if padding == "left" else 0
    assert grid.segment_starts.tolist() == [5, 11 + shift + 5, 7]
    assert grid.prefixes == [(0, True, 0), (1, True, 11 + shift)]
    assert grid.tokens == 19 and (grid.tree[1] == -1).sum() == 3


def test_prefixes_with_and_without_the_image():
    asked = [one_turn(0, ""), one_turn(0, "", keep_image=False)]
    rows = plan_rows(asked, pieces(2, 2), LENGTHS, "tree", budget=20)
    (row,) = rows
    assert [(tree.keep_image, tree.length) for tree in row] == [(True, 7), (False, 4)]
    grid = lay_out(rows, pieces(2, 2), PREFIXES, pad_id=0)
    assert grid.tree.tolist() == [[0] * 7 + [1] * 4]
    assert grid.positions.tolist() == [[*range(7), *range(4)]]
