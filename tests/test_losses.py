"""Losses against independent numpy computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcap.losses import (
    caption_loss,
    dice_loss,
    grounding_loss,
    phrase_contrast,
    region_keys,
    resize_targets,
    sample_uncertain,
    sigmoid_ce_loss,
)


@pytest.fixture
def logits_and_targets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 16, 16)), (rng.random((4, 16, 16)) < 0.3).astype(np.float64)


def test_sigmoid_ce_is_the_mean_over_pixels(logits_and_targets: tuple[np.ndarray, np.ndarray]) -> None:
    x, t = logits_and_targets
    p = 1 / (1 + np.exp(-x))
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert sigmoid_ce_loss(torch.from_numpy(x), torch.from_numpy(t)).item() == pytest.approx(expected, rel=1e-5)


def test_dice_is_sa2vas_formula(logits_and_targets: tuple[np.ndarray, np.ndarray]) -> None:
    x, t = logits_and_targets
    p = 1 / (1 + np.exp(-x))
    expected = np.mean([1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, t, strict=True)])
    assert dice_loss(torch.from_numpy(x), torch.from_numpy(t)).item() == pytest.approx(expected, rel=1e-5)


def test_targets_are_resized_nearest() -> None:
    mask = (np.random.default_rng(1).random((2, 1024, 1024)) < 0.5).astype(np.float32)
    np.testing.assert_array_equal(resize_targets(torch.from_numpy(mask), (256, 256)).numpy(), mask[:, ::4, ::4])


def test_area_targets_are_each_cells_coverage() -> None:
    mask = (np.random.default_rng(1).random((2, 64, 64)) < 0.5).astype(np.float32)
    expected = mask.reshape(2, 16, 4, 16, 4).mean((2, 4))
    np.testing.assert_allclose(resize_targets(torch.from_numpy(mask), (16, 16), "area").numpy(), expected, atol=1e-6)


def test_caption_loss_is_the_mean_over_tokens() -> None:
    logits = np.random.default_rng(2).standard_normal((5, 7))
    labels = np.array([0, 3, 6, 2, 2])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(5), labels].mean()
    assert caption_loss(torch.from_numpy(logits), torch.from_numpy(labels)).item() == pytest.approx(expected, rel=1e-5)


def test_uncertain_points_lie_near_the_boundary_and_carry_gradient() -> None:
    x = torch.linspace(-8, 8, 64).repeat(1, 64, 1).requires_grad_()
    targets = (torch.linspace(-8, 8, 256) > 0).float().repeat(1, 256, 1)
    points, labels = sample_uncertain(x, targets, 200, torch.Generator().manual_seed(0))
    assert points.shape == labels.shape == (1, 200)
    assert (points.detach().abs() < 3).float().mean() > 0.75  # uniform points would give 3/8
    assert ((points.detach() > 0.5).float() - labels).abs().max() < 1e-3 or labels.unique().numel() > 1
    points.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_grounding_loss_is_small_for_the_right_map_and_large_for_the_wrong_one() -> None:
    covered = torch.zeros(2, 16)
    covered[0, 3], covered[1, 8:10] = 1, 1
    right = (covered * 2 - 1) * 12
    assert grounding_loss(right, covered) < 0.8  # two equal cells cost log 2 of softmax CE
    assert grounding_loss(right.roll(1, 0), covered) > 10


def test_contrast_counts_the_same_words_as_positives() -> None:
    rng = np.random.default_rng(4)
    q, k = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    scores = q @ k.T * 0.7
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    expected = -np.mean([log_p[i][same[i]].mean() for i in range(3)])
    loss = phrase_contrast(torch.from_numpy(q), torch.from_numpy(k), torch.from_numpy(same), 0.7)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_region_keys_are_coverage_weighted_means() -> None:
    keys = torch.arange(12, dtype=torch.float32).view(2, 3, 2)
    covered = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    means = region_keys(keys, covered, torch.tensor([1, 0]))
    assert means.tolist() == [[6, 7], [1, 2]]
