"""Losses against independent numpy computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskcap.losses import (
    answer_loss,
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


def head(tokens: int, vocabulary: int = 300, width: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random states and weights as leaves with gradient, and labels."""
    generator = torch.Generator().manual_seed(tokens)
    states = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).mul_(0.5).requires_grad_()
    return states, weight, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize(("tokens", "chunk"), [(1, 1), (2, 1), (10, 3), (10, 5), (10, 9), (10, 11), (10, None)])
@pytest.mark.parametrize("trained", ["both", "states", "weight"])
def test_answer_loss_is_the_plain_logits_loss(tokens: int, chunk: int | None, trained: str) -> None:
    states, weight, labels = head(tokens)
    leaves = {"both": [states, weight], "states": [states], "weight": [weight]}[trained]
    for leaf in {states, weight} - set(leaves):
        leaf.requires_grad_(False)
    expected = caption_loss(states @ weight.T, labels)
    loss = answer_loss(states, weight, labels, chunk)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(
        torch.autograd.grad(2.5 * loss, leaves), torch.autograd.grad(2.5 * expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [3, None])
def test_answer_loss_under_autocast_multiplies_in_bfloat16_and_sums_in_float32(chunk: int | None) -> None:
    states, weight, labels = head(40)

    def measure(loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return loss.detach(), *torch.autograd.grad(loss, [states, weight])

    exact = measure(caption_loss(states @ weight.T, labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = measure(caption_loss(torch.nn.functional.linear(states, weight), labels))
        found = measure(answer_loss(states, weight, labels, chunk))
    torch.testing.assert_close(found[0], plain[0], rtol=1e-6, atol=1e-6)  # of the same rounded logits
    assert {value.dtype for value in found} == {torch.float32}
    for ours, theirs, truth in zip(found[1:], plain[1:], exact[1:], strict=True):
        assert (ours - truth).norm() < 1.1 * (theirs - truth).norm()  # no less precise than plain logits


def test_two_losses_of_tied_weights_add_up() -> None:
    """Two loops in one step, whose states come from embeddings that are the head's weights."""
    _, weight, labels = head(12)

    def step(loss_of: Any) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.nn.functional.embedding(labels.flip(0), weight).tanh()
        loss = loss_of(states, labels) + 0.1 * loss_of(states[:7] * 2, labels[:7])
        return loss.detach(), torch.autograd.grad(loss, weight)[0]

    found = step(lambda states, labels: answer_loss(states, weight, labels, chunk=4))
    expected = step(lambda states, labels: caption_loss(states @ weight.T, labels))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_answer_loss_without_gradient_and_with_a_second_backward() -> None:
    states, weight, labels = head(10)
    loss = answer_loss(states, weight, labels, chunk=3)
    with torch.no_grad():
        assert torch.equal(answer_loss(states, weight, labels, chunk=3), loss)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up"):
        loss.backward()


def test_logits_of_one_chunk_are_alive_at_most() -> None:
    states, weight, labels = head(64, vocabulary=300, width=16)
    shapes = set()

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            shapes.update([tuple(out.shape)] if isinstance(out, torch.Tensor) else [])
            return out

    with Shapes():
        answer_loss(states, weight, labels, chunk=8).backward()
    assert {shape for shape in shapes if shape[-1:] == (300,)} == {(8, 300), (16, 300)}  # 16: the weights, transposed


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
