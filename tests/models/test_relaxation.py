"""Straight-through and soft phrases against explicit formulas, token by token, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskcap.data.batch import Batch
from maskcap.models.conversation import Tokens
from maskcap.models.gumbel import FORBIDDEN, GumbelNoise, TokenChoice, forbidden_tokens
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl
from maskcap.models.relaxation import Relaxation, Relaxed, beyond, relax

WIDTH = 16


def untied(seed: int) -> Any:
    """In float64, head and table apart, so that each one's gradient is its own; wide logits."""
    small = {"image_size": 16, "patch_size": 4, "downsample_ratio": 0.5, "heads": 2}
    vlm = tiny_internvl(hidden_size=WIDTH, vit_layers=1, lm_layers=1, seed=seed, **small).double()
    generator = torch.Generator().manual_seed(seed)
    shape = vlm.embedding_weight.shape
    for holder in (vlm.model.get_output_embeddings(), vlm.model.get_input_embeddings()):
        holder.weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    assert vlm.head_weight is not vlm.embedding_weight
    return vlm


@pytest.fixture(scope="module")
def vlm() -> Any:
    """The captioner."""
    return untied(0)


@pytest.fixture(scope="module")
def captions(vlm: Any) -> list[list[int]]:
    """With an end, only an end, cut before its end and with words that come twice and three times."""
    one, two, three, four = vlm.tokenizer.convert_tokens_to_ids(["Ġred", "Ġlarge", "a", "Ġcircle"])
    end = vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [[one, two, four, end], [end], [three, one, three, four, one, three]]


def states_of(captions: list[list[int]], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(map(len, captions)), WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)


def how(vlm: Any, rows: int, sampled: bool = True, top_k: int | None = 5, **options: Any) -> Relaxation:
    forbidden = forbidden_tokens(vlm)
    noise = GumbelNoise(5, rows, forbidden.numel(), torch.device("cpu")) if sampled else None
    return Relaxation(TokenChoice(forbidden, top_k, noise), options.pop("temperature", 0.7), **options)


def explicit_soft(vlm: Any, states: torch.Tensor, captions: list[list[int]], relaxation: Relaxation) -> torch.Tensor:
    """softmax((logits + noise) / temperature) (A, V) over the candidates, one token after the other."""
    choice, rows, at = relaxation.choice, [], 0
    for row, caption in enumerate(captions):
        for step, token in enumerate(caption):
            logits = vlm.head_weight @ states[at]
            allowed = ~choice.forbidden
            if choice.top_k is not None:
                ranked = logits.detach().masked_fill(choice.forbidden, -np.inf).argsort(descending=True)
                allowed = torch.zeros_like(allowed).index_fill(0, ranked[: choice.top_k], True)
                allowed[token] = True
            noise = 0 if choice.noise is None else choice.noise.at([step])[0, row].double()
            share = ((logits + noise) / relaxation.temperature).masked_fill(~allowed, -np.inf).softmax(0)
            if step == 0 and relaxation.starts is not None:
                share = torch.zeros_like(share).index_add(0, relaxation.starts, share)
            rows.append(share)
            at += 1
    return torch.stack(rows)


def phrase_ids(captions: list[list[int]], relaxation: Relaxation) -> torch.Tensor:
    """int64 (A,): a caption's first token is its twin."""
    ids = torch.tensor([token for caption in captions for token in caption])
    if relaxation.starts is not None:
        first = np.cumsum([0, *map(len, captions)])[:-1]
        ids[first] = relaxation.starts[ids[first]]
    return ids


def gradients(vlm: Any, loss: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return torch.autograd.grad(loss, (states, vlm.head_weight, vlm.embedding_weight), allow_unused=True)


def twins(vlm: Any) -> torch.Tensor:
    """Two of the first tokens have a twin, which is a token of its own too."""
    to_ids = vlm.tokenizer.convert_tokens_to_ids
    starts = torch.arange(vlm.embedding_weight.shape[0])
    starts[to_ids("a")], starts[to_ids("Ġred")] = to_ids("Ġa"), to_ids("Ġblue")
    return starts


@pytest.mark.parametrize("with_twins", [False, True], ids=["as_said", "twins"])
@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "greedy"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_hard_is_the_tokens_forward_and_their_mean_backward(
    vlm: Any, captions: list[list[int]], top_k: int | None, sampled: bool, with_twins: bool
) -> None:
    relaxation = how(vlm, len(captions), sampled, top_k, starts=twins(vlm) if with_twins else None)
    states, upstream = states_of(captions), states_of(captions, 2).detach()
    relaxed = relax(vlm, states, captions, relaxation)
    ids = phrase_ids(captions, relaxation)
    assert torch.equal(relaxed.embeds, vlm.embed(ids))

    soft = explicit_soft(vlm, states, captions, relaxation)
    one_hot = torch.nn.functional.one_hot(ids, soft.shape[1]).double()
    straight = (one_hot + soft - soft.detach()) @ vlm.embedding_weight.detach()
    found = gradients(vlm, (relaxed.embeds * upstream).sum(), states)
    expected = gradients(vlm, (straight * upstream).sum(), states)
    assert found[0] is not None and found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    lookup = torch.zeros_like(vlm.embedding_weight).index_add(0, ids, upstream)  # as of an embedding lookup
    torch.testing.assert_close(found[2], lookup)


@pytest.mark.parametrize("with_twins", [False, True], ids=["as_said", "twins"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_soft_is_the_mean_embedding(vlm: Any, captions: list[list[int]], top_k: int | None, with_twins: bool) -> None:
    starts = twins(vlm) if with_twins else None
    relaxation = how(vlm, len(captions), top_k=top_k, hard=False, temperature=1.3, starts=starts)
    states, upstream = states_of(captions), states_of(captions, 2).detach()
    relaxed = relax(vlm, states, captions, relaxation)
    expected = explicit_soft(vlm, states, captions, relaxation) @ vlm.embedding_weight
    torch.testing.assert_close(relaxed.embeds, expected)
    found = gradients(vlm, (relaxed.embeds * upstream).sum(), states)
    for value, wanted in zip(found, gradients(vlm, (expected * upstream).sum(), states), strict=True):
        torch.testing.assert_close(value, wanted)


def test_twins_are_for_first_tokens_alone(vlm: Any, captions: list[list[int]]) -> None:
    plain, moved = (how(vlm, len(captions), starts=starts) for starts in (None, twins(vlm)))
    states = states_of(captions)
    before, after = (relax(vlm, states, captions, relaxation).embeds for relaxation in (plain, moved))
    changed = (before != after).any(-1).nonzero()[:, 0].tolist()
    assert changed == [0, 5]  # of captions 0 and 2; the end has no twin, and "a" and "red" come again later


def test_colder_is_closer_to_the_largest_logit(vlm: Any, captions: list[list[int]]) -> None:
    relaxation = how(vlm, len(captions), top_k=None, hard=False, temperature=1e-4)
    states = states_of(captions)
    with torch.no_grad():
        relaxed = relax(vlm, states, captions, relaxation)
        largest = explicit_soft(vlm, states, captions, relaxation).argmax(-1)
    torch.testing.assert_close(relaxed.embeds, vlm.embed(largest).detach(), atol=1e-6, rtol=0)


def numbers(vlm: Any, states: torch.Tensor, forbidden: np.ndarray) -> np.ndarray:
    """Probabilities (A, V) of the allowed tokens, in numpy."""
    logits = states.detach().numpy() @ vlm.head_weight.detach().numpy().T
    logits[:, forbidden] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_entropy_end_repetition_and_divergence(vlm: Any, captions: list[list[int]]) -> None:
    other, relaxation = untied(3), how(vlm, len(captions))
    states, known = states_of(captions), states_of(captions, 4).detach()
    relaxed = relax(vlm, states, captions, relaxation, (other, known))
    forbidden = relaxation.choice.forbidden.numpy()
    p, q = numbers(vlm, states, forbidden), numbers(other, known, forbidden)
    some, allowed = p > 0, ~forbidden

    def close(found: torch.Tensor, expected: np.ndarray) -> None:
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-12)

    assert (some == allowed).all()
    entropy = -(p[:, allowed] * np.log(p[:, allowed])).sum(-1)
    divergence = (p[:, allowed] * np.log(p[:, allowed] / q[:, allowed])).sum(-1)
    close(relaxed.entropy, entropy)
    close(relaxed.divergence, divergence)
    assert (divergence > 0).all()
    close(relaxed.end, p[:, vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")])
    repeated, at = [], 0
    for caption in captions:
        for step in range(len(caption)):
            repeated.append(sum(p[at, token] for token in set(caption[:step])))
            at += 1
    close(relaxed.repeated, np.array(repeated))
    assert relaxed.repeated[0] == relaxed.repeated[4] == 0

    # ∂KL/∂logit_j = p_j (log p_j/q_j − KL), and likewise of the entropy
    (found,) = torch.autograd.grad(relaxed.divergence.sum(), states, retain_graph=True)
    ratio = np.log(np.where(some, p, 1) / np.where(some, q, 1))
    close(found, (p * (ratio - divergence[:, None])) @ vlm.head_weight.detach().numpy())
    (found,) = torch.autograd.grad(relaxed.entropy.sum(), states)
    surprise = -np.log(np.where(some, p, 1))
    close(found, (p * (surprise - entropy[:, None])) @ vlm.head_weight.detach().numpy())


def test_a_reference_gets_no_gradient_and_none_means_no_divergence(vlm: Any, captions: list[list[int]]) -> None:
    other, relaxation, states = untied(3), how(vlm, len(captions)), states_of(captions)
    known = states_of(captions, 4)
    relaxed = relax(vlm, states, captions, relaxation, (other, known))
    assert torch.autograd.grad(relaxed.divergence.sum(), (known, other.head_weight), allow_unused=True) == (None, None)
    assert (relax(vlm, states, captions, relaxation).divergence == 0).all()
    same = relax(vlm, states, captions, relaxation, (vlm, states.detach())).divergence
    assert same.abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("hard", [True, False])
def test_chunks_of_steps_change_nothing(
    vlm: Any, captions: list[list[int]], hard: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    relaxation = how(vlm, len(captions), hard=hard, starts=twins(vlm))
    other, known = untied(3), states_of(captions, 4).detach()
    logits_a_step, seen = len(captions) * vlm.head_weight.shape[0], []

    def step() -> list[torch.Tensor | None]:
        states = states_of(captions)
        relaxed = relax(vlm, states, captions, relaxation, (other, known))
        fields = [relaxed.embeds, relaxed.entropy, relaxed.divergence, relaxed.end, relaxed.repeated]
        generator = torch.Generator().manual_seed(9)
        loss = sum((field * torch.randn(field.shape, generator=generator).double()).sum() for field in fields)
        assert isinstance(loss, torch.Tensor)
        return [*fields, *gradients(vlm, loss, states)]

    whole = step()
    head = vlm.head
    monkeypatch.setattr(vlm, "head", lambda states: seen.append(len(states)) or head(states))
    monkeypatch.setattr("maskcap.models.relaxation.LOGITS_AT_ONCE", steps * logits_a_step + steps - 1)
    parts = step()
    forward = {1: [3, 2, 2, 2, 1, 1], 2: [5, 4, 2], 4: [9, 2]}[steps]  # tokens of the steps that each chunk has
    assert seen[: len(forward)] == forward
    assert sorted(seen[len(forward) :]) == sorted(forward)  # and again in the backward
    for value, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_less_than_one_steps_logits_at_once_is_one_step(
    vlm: Any, captions: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    relaxation, states = how(vlm, len(captions)), states_of(captions)
    with torch.no_grad():
        whole = relax(vlm, states, captions, relaxation)
        monkeypatch.setattr("maskcap.models.relaxation.LOGITS_AT_ONCE", 1)
        parts = relax(vlm, states, captions, relaxation)
    torch.testing.assert_close(parts.entropy, whole.entropy)
    assert torch.equal(parts.embeds, whole.embeds) and not parts.embeds.requires_grad


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_single_precision_keeps_the_tokens_to_the_last_bit(autocast: bool, captions: list[list[int]]) -> None:
    vlm: Any = tiny_internvl(image_size=32, hidden_size=WIDTH, heads=2, vit_layers=1, lm_layers=1)
    states = states_of(captions).detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        relaxed = relax(vlm, states, captions, how(vlm, len(captions)))
    ids = torch.tensor([token for caption in captions for token in caption])
    assert torch.equal(relaxed.embeds, vlm.embed(ids)) and relaxed.entropy.dtype == torch.float32
    relaxed.embeds.pow(2).sum().backward()
    assert states.grad is not None and states.grad.isfinite().all() and states.grad.abs().max() > 0


def test_tokens_beyond_the_target() -> None:
    captions = [[1, 2, 3, 0], [0], [1, 2, 3, 4, 5]]
    end = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.8, 0.0, 0.1, 0.5, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(10, dtype=torch.float64)
    relaxed = Relaxed(nothing[:, None], nothing, nothing, end, nothing)
    found = beyond(relaxed, captions, 2)
    assert found.item() == pytest.approx(((0.7 + 0.1) + 0 + (0.5 + 0.75 + 0.25)) / 3)
    (gradient,) = torch.autograd.grad(found, end)
    assert gradient.tolist() == pytest.approx([0, 0, -1 / 3, -1 / 3, 0, 0, 0, -1 / 3, -1 / 3, -1 / 3])
    assert beyond(relaxed, captions, 0).item() == pytest.approx((10 - end.sum().item()) / 3)
    assert beyond(relaxed, captions, 5).item() == 0
    assert beyond(replace(relaxed, end=torch.ones(10)), captions, 0) == 0


@pytest.mark.parametrize("kind", ["tiny_model", "qwen_model"])
@pytest.mark.parametrize("packing", ["tree", "none"])
def test_one_parallel_reading_finds_the_drawn_tokens_again(
    kind: str, packing: Any, tiny_batch: Batch, request: pytest.FixtureRequest
) -> None:
    """What the rollout drew token by token is the argmax of the reading's logits with the same noise."""
    model: MaskCaptionModel = request.getfixturevalue(kind).eval()
    model.packing = packing
    vlm: Any = model.vlm
    relaxation = how(vlm, 3, top_k=50, hard=False, temperature=1e-3)
    encoded = model.encode(tiny_batch.image1, tiny_batch.sizes)
    regions, _ = model.region_tokens(encoded.tokens, tiny_batch.mask1, tiny_batch.region_image)
    asked = ([0, 0, 1], [None] * 3)
    said = model.generate(encoded, model.describe_questions(regions, *asked), 8, relaxation.choice)
    assert len({tuple(ids) for ids in said.ids}) == 3
    answers = [Tokens(tuple(ids)) for ids in said.ids]
    (reading,) = model.read(encoded, [model.describe_questions(regions, *asked, answers)])
    drawn = torch.tensor([token for ids in said.ids for token in ids])
    assert torch.equal(reading.answer_ids, drawn)
    logits = vlm.head(reading.answer_states).masked_fill(relaxation.choice.forbidden, FORBIDDEN)
    assert relaxation.choice.noise is not None
    noise = torch.cat([relaxation.choice.noise.at(range(len(ids)))[:, row] for row, ids in enumerate(said.ids)])
    assert torch.equal((relaxation.choice.candidates(logits) + noise).argmax(-1), drawn)
    relaxed = relax(vlm, reading.answer_states, said.ids, relaxation)
    torch.testing.assert_close(relaxed.embeds, vlm.embed(drawn), atol=1e-3, rtol=0)
