"""Which tokens a pseudo caption may have, and the noise that draws them: the same in the rollout and in the relaxation.

Shapes: R captions, V vocabulary, g steps, k candidates.

argmax(logits + Gumbel noise) is a draw from softmax(logits) (Gumbel 1954), and softmax((logits + noise) / temperature)
its relaxation (Jang et al. 2017, Maddison et al. 2017). The rollout takes the argmax token by token; the relaxation
reads the whole caption at once and needs the same noise again, so it is a function of a seed, caption and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

FORBIDDEN = -1e9  # a logit without any share; finite, so that products with it stay numbers


@dataclass(frozen=True)
class GumbelNoise:
    """Standard Gumbel noise for `rows` captions over `vocabulary` tokens, each step's by itself, on `device`."""

    seed: int
    rows: int
    vocabulary: int
    device: torch.device

    def at(self, steps: Sequence[int]) -> torch.Tensor:
        """float32 (g, R, V) of these steps."""
        noise = torch.empty(len(steps), self.rows, self.vocabulary, device=self.device)
        generator = torch.Generator(self.device)
        for number, step in enumerate(steps):
            noise[number].exponential_(generator=generator.manual_seed(self.seed + step))
        return noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_().neg_()


@dataclass(frozen=True)
class TokenChoice:
    """How the next token of a pseudo caption is taken; a `TokenRule`.

    forbidden: bool (V,). top_k: only the k likeliest are candidates, with those that equal the last of them; None: all.
    noise: None takes the likeliest.
    """

    forbidden: torch.Tensor
    top_k: int | None = None
    noise: GumbelNoise | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """New ids (R, t) and logits (R, V) of token t → logits whose largest is to be taken."""
        logits = self.candidates(scores.masked_fill(self.forbidden, FORBIDDEN))
        return logits if self.noise is None else logits + self.noise.at([input_ids.shape[1]])[0].to(logits.dtype)

    def candidates(self, logits: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (…, V) with FORBIDDEN for all below the `top_k`-th largest, but for `chosen`, int64 (…,)."""
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return logits
        outside = logits < logits.detach().topk(self.top_k, dim=-1).values[..., -1:]
        if chosen is not None:
            outside = outside.scatter(-1, chosen[..., None], False)
        return logits.masked_fill(outside, FORBIDDEN)


def forbidden_tokens(vlm: Any) -> torch.Tensor:
    """bool (V,) on the host: what a caption must not hold, special tokens other than its end and rows of the embeddings
    that are no token."""
    tokenizer, rows = vlm.tokenizer, vlm.embedding_weight.shape[0]
    forbidden = torch.ones(rows, dtype=torch.bool)
    forbidden[list(tokenizer.get_vocab().values())] = False
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    forbidden[list(special)] = True
    forbidden[tokenizer.convert_tokens_to_ids(vlm.conversation.end)] = False
    return forbidden


def word_starts(vlm: Any) -> torch.Tensor | None:
    """int64 (V,) on the host: each token's twin with a space before it, itself where there is none.

    Of byte-level vocabularies ("Ġ"). A caption begins an answer, and as a phrase it stands behind a space: its first
    token is then another. None where nothing changes, or the template has no space there.
    """
    if not vlm.conversation.phrase_starts_a_word:
        return None
    vocabulary = vlm.tokenizer.get_vocab()
    twins = torch.arange(vlm.embedding_weight.shape[0])
    for token, number in vocabulary.items():
        twins[number] = vocabulary.get(f"Ġ{token}", number)
    return None if bool((twins == torch.arange(len(twins))).all()) else twins
