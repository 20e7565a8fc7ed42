"""Grounded answers by hand, and against every matching tried one by one."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskcap.metrics.grounded import GroundedMetrics, phrase_f1

NAMES = ["a red box", "the blue box", "red box here", "a tall green tree", "tree"]


def columns(*spans: tuple[int, int]) -> torch.Tensor:
    """Masks (n, 4, 10) of whole columns from `start` up to `end`."""
    masks = torch.zeros(len(spans), 4, 10, dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[:, start:end] = True
    return masks


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        ("a man", "The man", 1.0),
        ("a young man", "the man.", 2 / 3),
        ("a man", "a guy", 0.0),
        ("", "the man", 0.0),
        ("the", "a", 1.0),
        ("man man", "man", 2 / 3),
    ],
)
def test_words_of_phrases(said: str, true: str, expected: float):
    assert phrase_f1(said, true) == pytest.approx(expected)


def test_one_answer_by_hand():
    metrics = GroundedMetrics()
    true = columns((0, 4), (4, 8), (8, 10))
    # The first fits by mask and words, the second by its mask alone; the third true phrase has no partner left.
    pairs = metrics.update(["a red box", "a guy"], columns((0, 4), (4, 7)), ["red box", "the man", "sky"], true)
    assert pairs == [(0, 1.0), (1, 0.75), (None, 0.0)]
    scores = metrics.compute()
    assert scores == pytest.approx(
        {"phrase_recall": 1 / 3, "mask_recall": 2 / 3, "miou": 1.75 / 3, "seg_aligned": 0, "answers": 1, "phrases": 3}
    )
    metrics.update(["sky"], columns((8, 10)), ["the sky"], columns((8, 10)))
    assert metrics.compute()["seg_aligned"] == 0.5 and metrics.compute()["phrase_recall"] == 0.5


def test_one_predicted_phrase_counts_for_one_true_one():
    metrics = GroundedMetrics()
    twice = columns((0, 4), (0, 4))
    metrics.update(["box"], columns((0, 4)), ["box", "box"], twice)
    assert metrics.compute()["phrase_recall"] == metrics.compute()["mask_recall"] == 0.5
    metrics.update(["box", "box"], twice, ["box"], columns((0, 4)))
    assert metrics.compute()["phrase_recall"] == 2 / 3


def test_nothing_predicted_and_nothing_seen():
    metrics = GroundedMetrics()
    assert metrics.compute() == {"answers": 0, "phrases": 0}
    assert metrics.update([], columns(), ["box"], columns((0, 4))) == [(None, 0.0)]
    assert metrics.compute()["miou"] == metrics.compute()["seg_aligned"] == 0


def brute_force(
    said: list[str], masks: np.ndarray, true: list[str], true_masks: np.ndarray
) -> tuple[float, float, float]:
    """Found phrases, found masks and ΣIoU, each the most that a matching reaches."""
    iou = np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in true_masks] for a in masks])
    words = np.array([[phrase_f1(a, b) for b in true] for a in said])
    small = min(len(said), len(true))
    matchings = [
        list(zip(rows, cols, strict=True))
        for rows in itertools.combinations(range(len(said)), small)
        for cols in itertools.permutations(range(len(true)), small)
    ]
    both = (iou >= 0.5) & (words >= 0.5)

    def most(table: np.ndarray) -> float:
        """The greatest sum over a matching."""
        return max(float(sum(table[pair] for pair in each)) for each in matchings)

    return most(both), most(iou >= 0.5), most(iou)


def test_the_scores_are_those_of_the_best_matching():
    rng = np.random.default_rng(0)
    sums = np.zeros(3)
    metrics, phrases = GroundedMetrics(), 0
    for _ in range(20):
        p, t = rng.integers(1, 5, 2)
        said, true = list(rng.choice(NAMES, p)), list(rng.choice(NAMES, t))
        masks = [columns(*[tuple(sorted(rng.choice(11, 2, replace=False))) for _ in range(n)]) for n in (p, t)]
        metrics.update(said, masks[0], true, masks[1].float())
        sums += brute_force(said, masks[0].numpy(), true, masks[1].numpy())
        phrases += t
    scores = metrics.compute()
    found = [scores[name] * phrases for name in ("phrase_recall", "mask_recall", "miou")]
    assert found == pytest.approx(sums) and scores["phrases"] == phrases and 0 < sums[0] < sums[1]


def test_what_does_not_fit_is_refused():
    metrics = GroundedMetrics()
    with pytest.raises(ValueError, match="1 predicted phrases need masks"):
        metrics.update(["a"], columns((0, 1), (1, 2)), ["b"], columns((0, 1)))
    with pytest.raises(ValueError, match="2 true phrases need masks"):
        metrics.update([], columns(), ["a", "b"], columns((0, 1)))
    with pytest.raises(ValueError, match="without true phrases"):
        metrics.update([], columns(), [], columns())


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = _filled([0] if rank == 0 else [1, 2])
    metrics.sync()
    metrics.sync()
    torch.save(metrics.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _filled(answers: list[int]) -> GroundedMetrics:
    metrics = GroundedMetrics()
    for answer in answers:
        metrics.update(["box"], columns((0, 2 + answer)), ["box", "sky"], columns((0, 4), (5, 9)))
    return metrics


def test_ranks_and_parts_add_up(tmp_path: Path):
    whole = _filled([0, 1, 2]).compute()
    part = _filled([0])
    part.merge(_filled([1, 2]))
    assert part.compute() == pytest.approx(whole)
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(whole)
