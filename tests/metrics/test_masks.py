from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from maskcap.metrics.masks import MaskMetrics, mask_iou, pairwise_iou


def random_masks(seed: int, regions: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.random((regions, 9, 7)) < rng.random((regions, 1, 1))
    return np.where(rng.random(true.shape) < 0.2, ~true, true), true


def numpy_scores(pred: np.ndarray, true: np.ndarray) -> dict[str, float]:
    ious, intersection, union = [], 0, 0
    for p, t in zip(pred, true, strict=True):
        both, either = int(np.logical_and(p, t).sum()), int(np.logical_or(p, t).sum())
        intersection, union = intersection + both, union + either
        ious.append(both / either if either else 1.0)
    miou = float(np.mean(ious))
    scores = {"miou": miou, "giou": miou, "ciou": intersection / union, "count": float(len(ious))}
    return {**scores, **{f"precision_{t}": float(np.mean([iou >= t / 100 for iou in ious])) for t in (50, 70, 90)}}


def test_scores_equal_numpy_over_several_updates():
    metrics = MaskMetrics()
    pred, true = random_masks(0)
    for start in (0, 5):
        stop = start + 5 if start == 0 else None
        metrics.update(torch.from_numpy(pred[start:stop]), torch.from_numpy(true[start:stop]))
    assert metrics.compute() == pytest.approx(numpy_scores(pred, true), abs=1e-12)


def test_ciou_weighs_large_objects_and_miou_does_not():
    true, pred = torch.zeros(2, 10, 10, dtype=torch.bool), torch.zeros(2, 10, 10, dtype=torch.bool)
    true[0], pred[0] = True, True  # 100 of 100 pixels
    true[1, 0, :4], pred[1, 0, 3:5] = True, True  # 1 of 5
    metrics = MaskMetrics()
    ious = metrics.update(pred, true)
    assert ious.tolist() == [1.0, 0.2]
    scores = metrics.compute()
    assert scores["miou"] == pytest.approx(0.6)
    assert scores["ciou"] == pytest.approx(101 / 105)


@pytest.mark.parametrize(("pixels", "reached"), [(5, True), (4, False)])
def test_precision_counts_an_iou_at_the_threshold(pixels: int, reached: bool):
    true = torch.ones(1, 1, 10, dtype=torch.bool)
    metrics = MaskMetrics()
    metrics.update((torch.arange(10) < pixels)[None, None], true)
    assert metrics.compute()["precision_50"] == float(reached)


def test_two_empty_masks_agree_and_one_empty_mask_scores_nothing():
    empty, full = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    assert mask_iou(empty, empty).tolist() == [1.0]
    assert mask_iou(full, empty).tolist() == [0.0]
    metrics = MaskMetrics()
    metrics.update(empty, empty)
    assert metrics.compute()["ciou"] == 1.0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_any_dtype_of_0_and_1_gives_the_same(dtype: torch.dtype):
    pred, true = (torch.from_numpy(mask) for mask in random_masks(1))
    assert torch.equal(mask_iou(pred.to(dtype), true.to(dtype)), mask_iou(pred, true))


@pytest.mark.parametrize("value", [0.5, -3.0, 255.0, float("nan")])
def test_logits_are_refused_when_computing(value: float):
    metrics = MaskMetrics()
    metrics.update(torch.full((1, 2, 2), value), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="4 mask values were neither 0 nor 1"):
        metrics.compute()


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"predicted \(1, 2, 2\), true \(1, 3, 2\)"):
        MaskMetrics().update(torch.ones(1, 2, 2), torch.ones(1, 3, 2))


def test_no_region_leaves_the_scores_out():
    metrics = MaskMetrics()
    assert metrics.compute() == {"count": 0.0}
    metrics.update(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3))
    assert metrics.compute() == {"count": 0.0}


def test_merge_equals_one_object_that_saw_everything_and_reset_forgets():
    parts, whole = [MaskMetrics(), MaskMetrics()], MaskMetrics()
    for seed, part in enumerate(parts):
        pred, true = (torch.from_numpy(mask) for mask in random_masks(seed))
        part.update(pred, true)
        whole.update(pred, true)
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(whole.compute(), abs=1e-12)
    parts[0].reset()
    assert parts[0].compute() == {"count": 0.0}


def test_sync_without_a_process_group_changes_nothing():
    metrics = MaskMetrics()
    metrics.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    metrics.sync()
    metrics.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    assert metrics.compute()["count"] == 2


def _rank(rank: int, store: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metrics = MaskMetrics()
    if rank == 0:  # the other rank saw nothing
        pred, true = random_masks(3)
        metrics.update(torch.from_numpy(pred), torch.from_numpy(true))
    metrics.sync()
    metrics.sync()
    results.put(metrics.compute())
    dist.destroy_process_group()


def test_sync_sums_over_ranks(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for process in ranks:
        process.start()
    scores = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join()
    expected = numpy_scores(*random_masks(3))
    assert scores == [pytest.approx(expected, abs=1e-12)] * 2


def test_empty_targets_have_a_share_of_their_own():
    true, pred = torch.zeros(4, 5, 5), torch.zeros(4, 5, 5)
    true[0, :2], pred[0, :2] = 1, 1
    metrics = MaskMetrics()
    metrics.update(pred[:1], true[:1])
    assert "no_target_accuracy" not in metrics.compute()
    pred[3, 0, 0] = 1  # found something of nothing; the other two found nothing
    assert metrics.update(pred[1:], true[1:]).tolist() == [1, 1, 0]
    scores = metrics.compute()
    assert scores["no_target_accuracy"] == pytest.approx(2 / 3) and scores["miou"] == pytest.approx(3 / 4)
    assert scores["precision_50"] == pytest.approx(3 / 4)  # regions without a target count as all others
    other = MaskMetrics()
    other.update(pred[3:], true[3:])
    metrics.merge(other)
    assert metrics.compute()["no_target_accuracy"] == 0.5
    assert "absent_accuracy" not in metrics.compute()


def test_frames_without_the_object_are_no_phrases_without_a_target():
    true, pred = torch.zeros(5, 5, 5), torch.zeros(5, 5, 5)
    true[0, :2], pred[0, :2], pred[1, 0, 0] = 1, 1, 1
    metrics = MaskMetrics()
    metrics.update(pred[:3], true[:3], torch.tensor([True, True, False]))
    metrics.update(pred[3:], true[3:], torch.tensor([True, False]))
    scores = metrics.compute()
    # Frames: one that shows the object, one found there for nothing, one rightly empty; stills: both rightly empty.
    assert (scores["absent_accuracy"], scores["no_target_accuracy"], scores["count"]) == (0.5, 1, 5)
    alone = MaskMetrics()
    alone.update(pred[:2], true[:2], torch.tensor([True, True]))
    assert alone.compute()["absent_accuracy"] == 0 and "no_target_accuracy" not in alone.compute()
    with pytest.raises(ValueError, match=r"in_video must be \(2,\)"):
        alone.update(pred[:2], true[:2], torch.tensor([True]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_every_pair_is_scored_as_alone(dtype: torch.dtype):
    masks, true = torch.from_numpy(random_masks(2)[0]), torch.from_numpy(random_masks(4, 5)[1])
    masks[3], true[1] = False, False  # two empty masks agree
    table = pairwise_iou(masks.to(dtype), true.to(dtype))
    expected = torch.stack([mask_iou(mask.expand_as(true), true) for mask in masks])
    assert table.shape == (12, 5) and torch.equal(table, expected) and table[3, 1] == 1
    assert pairwise_iou(masks[:0], true).shape == (0, 5)
    with pytest.raises(ValueError, match=r"predicted \(12, 9, 7\), true \(5, 9, 6\)"):
        pairwise_iou(masks, true[..., 1:])


def test_pairs_of_large_masks_are_exact_under_autocast():
    true = torch.ones(1, 1024, 1024, dtype=torch.bool)
    masks = true.repeat(2, 1, 1)
    masks[0, 0, 0], masks[1, 0, :3] = False, False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pairwise_iou(masks, true)
    assert found[:, 0].tolist() == [(2**20 - 1) / 2**20, (2**20 - 3) / 2**20]
