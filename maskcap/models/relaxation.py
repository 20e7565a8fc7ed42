"""From a rolled-out caption to a phrase that carries gradient: straight-through Gumbel-softmax over the vocabulary.

Shapes: R captions, A their tokens (ends among them), a of them in a chunk, C width, V vocabulary, W earlier tokens.

`relax` gets the states of one parallel reading of the rolled-out captions. Forward it gives each token's own embedding
(hard) or the mean embedding under softmax((logits + noise) / temperature) (soft); backward always the latter's
gradient (Bengio et al. 2013). Logits over the vocabulary are made for a chunk of steps at a time, and again in the
backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from maskcap.losses import LOGITS_AT_ONCE, at_least_float32
from maskcap.models.gumbel import FORBIDDEN, TokenChoice
from maskcap.models.transfer import to_device


@dataclass(frozen=True)
class Relaxation:
    """How captions were drawn, and how soft they are.

    choice: as in the rollout. temperature: > 0. hard: forward the tokens' own embeddings. starts: see `word_starts`,
    on the device. cut: the tokens' own embeddings without a way to the distribution, as of written words; needs hard.
    """

    choice: TokenChoice
    temperature: float
    hard: bool = True
    starts: torch.Tensor | None = None
    cut: bool = False


@dataclass(frozen=True)
class Relaxed:
    """Of each token: its embedding (A, C); then float (A,): the entropy in nats of its distribution, the divergence
    from the reference's (KL, nats; zeros without one), the probability of the end, and of the caption's earlier tokens.
    """

    embeds: torch.Tensor
    entropy: torch.Tensor
    divergence: torch.Tensor
    end: torch.Tensor
    repeated: torch.Tensor


def relax(
    vlm: Any,
    states_AC: torch.Tensor,
    captions: Sequence[Sequence[int]],
    relaxation: Relaxation,
    reference: tuple[Any, torch.Tensor] | None = None,
) -> Relaxed:
    """The captions' tokens with gradient to the states that predict them.

    captions: token ids of R captions, A in all; states (A, C), caption by caption. reference: another VLM and its
    states (A, C) of the same captions, without gradient.
    """
    layout = _Layout.of(captions)
    arrays = (layout.ids, layout.steps, layout.rows, layout.earlier)
    ids_A, steps_A, rows_A, earlier_AW = to_device([torch.from_numpy(each) for each in arrays], states_AC.device)
    end = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.end)
    groups = list(layout.groups(len(captions) * vlm.head_weight.shape[0]))
    parts = []
    for steps, tokens in groups:
        (at,) = to_device([torch.from_numpy(tokens)], states_AC.device)

        def run(states_aC: torch.Tensor, steps: range = steps, at: torch.Tensor = at) -> tuple[torch.Tensor, ...]:
            """One chunk, now and again in the backward."""
            token = _Tokens(ids_A[at], steps_A[at] - steps.start, rows_A[at], earlier_AW[at], end)
            known = None if reference is None else (reference[0], reference[1][at])
            return _relax_chunk(vlm, states_aC, token, steps, relaxation, known)

        states_aC = states_AC.index_select(0, at)
        if len(groups) > 1 and torch.is_grad_enabled():
            parts.append(checkpoint(run, states_aC, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(run(states_aC))
    order = np.argsort(np.concatenate([tokens for _, tokens in groups]))
    (back,) = to_device([torch.from_numpy(order)], states_AC.device)
    return Relaxed(*(torch.cat(values).index_select(0, back) for values in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Layout:
    """Token by token, on the host: ids, steps and rows int64 (A,), earlier int64 (A, W): the caption's tokens before,
    each once, -1 for none."""

    ids: np.ndarray
    steps: np.ndarray
    rows: np.ndarray
    earlier: np.ndarray

    @classmethod
    def of(cls, captions: Sequence[Sequence[int]]) -> _Layout:
        """Of captions by their ids."""
        places = [(row, step) for row, caption in enumerate(captions) for step in range(len(caption))]
        ids = np.array([captions[row][step] for row, step in places], dtype=np.int64)
        rows, steps = np.array(places, dtype=np.int64).reshape(-1, 2).T
        before = [list(dict.fromkeys(captions[row][:step])) for row, step in places]
        earlier = np.full((len(ids), max(1, *map(len, before))), -1, dtype=np.int64)
        for line, tokens in zip(earlier, before, strict=True):
            line[: len(tokens)] = tokens
        return cls(ids, steps.copy(), rows.copy(), earlier)

    def groups(self, logits_a_step: int) -> Iterator[tuple[range, np.ndarray]]:
        """Runs of steps, and their tokens' places in A, of at most LOGITS_AT_ONCE logits or of one step."""
        size, end = max(1, LOGITS_AT_ONCE // logits_a_step), int(self.steps.max()) + 1
        for first in range(0, end, size):
            run = range(first, min(first + size, end))
            yield run, np.flatnonzero((self.steps >= run.start) & (self.steps < run.stop))


@dataclass(frozen=True)
class _Tokens:
    """A chunk's tokens: ids, steps from the chunk's first on, rows (a,); earlier (a, W); the end's id."""

    ids: torch.Tensor
    steps: torch.Tensor
    rows: torch.Tensor
    earlier: torch.Tensor
    end: int


def _relax_chunk(
    vlm: Any,
    states_aC: torch.Tensor,
    token: _Tokens,
    steps: range,
    relaxation: Relaxation,
    reference: tuple[Any, torch.Tensor] | None,
) -> tuple[torch.Tensor, ...]:
    """The fields of Relaxed of one chunk."""
    forbidden = relaxation.choice.forbidden
    logits_aV = at_least_float32(vlm.head(states_aC)).masked_fill(forbidden, FORBIDDEN)
    log_p_aV = logits_aV.log_softmax(dim=-1)
    p_aV = log_p_aV.exp()
    entropy = -(p_aV * log_p_aV).sum(-1)
    divergence = torch.zeros_like(entropy)
    if reference is not None:
        with torch.no_grad():
            known_aV = at_least_float32(reference[0].head(reference[1])).masked_fill(forbidden, FORBIDDEN)
            known_aV = known_aV.log_softmax(dim=-1)
        divergence = (p_aV * (log_p_aV - known_aV)).sum(-1)
    repeated = (p_aV.gather(1, token.earlier.clamp_min(0)) * (token.earlier >= 0)).sum(-1)
    embeds = _embed(vlm, token, steps, logits_aV, relaxation)
    return embeds, entropy, divergence, p_aV[:, token.end], repeated


def _embed(vlm: Any, token: _Tokens, steps: range, logits_aV: torch.Tensor, relaxation: Relaxation) -> torch.Tensor:
    """Embeddings (a, C), straight through or soft; a caption's first token is its twin with a space."""
    starts = relaxation.starts if steps.start == 0 else None
    first_a = token.steps == 0
    ids_a = token.ids if starts is None else torch.where(first_a, starts[token.ids], token.ids)
    if relaxation.cut:
        return vlm.embed(ids_a)
    soft_aV = _soften(token, steps, logits_aV, relaxation)
    if starts is not None:
        moved_aV = torch.zeros_like(soft_aV).index_add(1, starts, soft_aV)
        soft_aV = torch.where(first_a[:, None], moved_aV, soft_aV)
    table_VC = vlm.embedding_weight
    if not relaxation.hard:
        return (soft_aV.to(table_VC.dtype) @ table_VC).to(table_VC.dtype)
    # (soft − soft) @ table is zero to the last bit, so that forward the tokens are exactly those of the text
    through = (soft_aV - soft_aV.detach()).to(table_VC.dtype) @ table_VC.detach()
    return vlm.embed(ids_a) + through.to(table_VC.dtype)


def _soften(token: _Tokens, steps: range, logits_aV: torch.Tensor, relaxation: Relaxation) -> torch.Tensor:
    """The relaxed draw (a, V), by the rollout's own noise."""
    choice = relaxation.choice
    perturbed_aV = choice.candidates(logits_aV, token.ids)
    if choice.noise is not None:
        noise_gRV = choice.noise.at(steps)
        perturbed_aV = perturbed_aV + noise_gRV[token.steps, token.rows].to(perturbed_aV.dtype)
    return (perturbed_aV / relaxation.temperature).softmax(dim=-1)


def beyond(relaxed: Relaxed, captions: Sequence[Sequence[int]], target: int) -> torch.Tensor:
    """Expected tokens beyond the target: for each caption the sum, over its steps from `target` on, of the probability
    that it goes on; mean over captions, scalar."""
    steps = np.array([step for caption in captions for step in range(len(caption))], dtype=np.int64)
    (late,) = to_device([torch.from_numpy(np.flatnonzero(steps >= target))], relaxed.end.device)
    return (1 - relaxed.end.index_select(0, late)).sum() / max(1, len(captions))
