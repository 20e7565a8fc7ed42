"""Noise that can be drawn again, draws from it against softmax, and the tokens that captions and phrases may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from maskcap.models.conversation import ADDED_TOKENS, Conversation, tiny_conversation, token_ids
from maskcap.models.gumbel import FORBIDDEN, GumbelNoise, TokenChoice, forbidden_tokens, word_starts
from maskcap.models.presets import tiny_internvl, tiny_qwen2_vl
from maskcap.models.tiny_tokenizer import SPECIAL, WORDS
from maskcap.models.vlm.internvl import InternVL

CPU = torch.device("cpu")
SMALL = {"image_size": 32, "hidden_size": 32, "vit_layers": 1, "lm_layers": 1}
LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.2, -0.3])
FORBIDDEN_HERE = torch.tensor([False, False, False, False, True, False])


def softmax(logits: torch.Tensor, kept: list[int]) -> np.ndarray:
    weights = np.zeros(len(logits))
    weights[kept] = np.exp(logits.double().numpy()[kept])
    return weights / weights.sum()


def draw(choice: TokenChoice, rows: int, step: int = 0) -> np.ndarray:
    """int64 (rows,): what is taken as token `step`."""
    said = torch.zeros(rows, step, dtype=torch.int64)
    return choice(said, LOGITS.expand(rows, -1)).argmax(dim=-1).numpy()


def assert_frequencies(drawn: np.ndarray, expected: np.ndarray) -> None:
    found = np.bincount(drawn, minlength=expected.size) / drawn.size
    sigma = np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(found - expected) <= 4 * sigma).all(), (found, expected)


def test_noise_is_a_function_of_seed_and_step() -> None:
    noise = GumbelNoise(7, 4, 11, CPU)
    torch.manual_seed(0)
    rows = noise.at(range(5))
    untouched = torch.rand(3)
    assert rows.shape == (5, 4, 11) and rows.dtype == torch.float32 and rows.isfinite().all()
    assert torch.equal(noise.at([3])[0], rows[3])
    assert torch.equal(noise.at([4, 0]), rows[[4, 0]])
    assert len({row.sum().item() for row in rows}) == 5
    assert not torch.equal(GumbelNoise(8, 4, 11, CPU).at([0]), rows[:1])
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), untouched)  # the run's own generator has not moved


def test_noise_has_gumbels_mean_and_variance() -> None:
    values = GumbelNoise(2**52 - 1, 200, 1000, CPU).at([0]).double().flatten().numpy()
    variance = np.pi**2 / 6
    assert abs(values.mean() - np.euler_gamma) < 5 * np.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 0.02
    assert abs((values < 0).mean() - np.exp(-1)) < 5 * np.sqrt(0.25 / values.size)


@pytest.mark.parametrize(
    "top_k, kept", [(None, [0, 1, 2, 3, 5]), (2, [2, 0]), (4, [2, 0, 3, 5]), (99, [0, 1, 2, 3, 5])]
)
def test_draws_follow_softmax_over_the_candidates(top_k: int | None, kept: list[int]) -> None:
    rows = 20_000
    choice = TokenChoice(FORBIDDEN_HERE, top_k, GumbelNoise(3, rows, 6, CPU))
    drawn = draw(choice, rows, step=2)
    assert set(drawn.tolist()) == set(kept)
    assert_frequencies(drawn, softmax(LOGITS, kept))


def test_following_steps_are_drawn_independently() -> None:
    rows = 20_000
    choice = TokenChoice(FORBIDDEN_HERE, None, GumbelNoise(11, rows, 6, CPU))
    once = softmax(LOGITS, [0, 1, 2, 3, 5])
    pairs = draw(choice, rows, 0) * 6 + draw(choice, rows, 1)
    assert_frequencies(pairs, np.outer(once, once).ravel())


def test_without_noise_the_likeliest_allowed_token_is_taken() -> None:
    forbidden = torch.tensor([False, False, True, False, True, False])
    assert draw(TokenChoice(forbidden), 3).tolist() == [0, 0, 0]
    assert draw(TokenChoice(forbidden, top_k=1, noise=GumbelNoise(0, 500, 6, CPU)), 500).tolist() == [0] * 500


def test_candidates_are_the_largest_and_the_chosen() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)]).requires_grad_()
    choice = TokenChoice(torch.zeros(6, dtype=torch.bool), top_k=2)
    found = choice.candidates(logits, torch.tensor([1, 3]))
    kept = torch.tensor([[False, True, True, False, True, False], [False, True, False, True, False, False]])
    assert torch.equal(found > FORBIDDEN, kept)
    assert torch.equal(found[kept], logits[kept]) and (found[~kept] == FORBIDDEN).all()
    found.exp().sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad != 0, kept)
    alone = choice.candidates(logits)
    assert (alone > FORBIDDEN).sum(-1).tolist() == [2, 2]
    assert TokenChoice(choice.forbidden, top_k=6).candidates(logits) is logits


@pytest.mark.parametrize("build", [tiny_internvl, tiny_qwen2_vl])
def test_captions_may_hold_words_and_their_end_alone(build: Any) -> None:
    vlm = build(**SMALL)
    tokenizer, size = vlm.tokenizer, len(vlm.tokenizer)
    vlm.model.resize_token_embeddings(size + 8, mean_resizing=False)
    forbidden = forbidden_tokens(vlm)
    assert forbidden.shape == (size + 8,) and forbidden[size:].all()
    control = [*SPECIAL, *ADDED_TOKENS, vlm.conversation.image_slot]
    control = [token for token in control if token != "<|im_end|>"]
    assert forbidden[tokenizer.convert_tokens_to_ids(control)].all()
    assert not forbidden[tokenizer.convert_tokens_to_ids("<|im_end|>")]
    words = tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in WORDS.split()])
    letters = token_ids(tokenizer, "zebra's 日")
    assert not forbidden[[*words, *letters]].any()
    special = sum(token.special for token in tokenizer.added_tokens_decoder.values())
    assert int(forbidden.sum()) == 8 + special - 1


def byte_level(spaced: bool = True) -> PreTrainedTokenizerFast:
    """BPE with tokens for "cat" and, if spaced, " cat", and bytes."""
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat")][: 3 if spaced else 2]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")


@pytest.mark.parametrize("conversation", [Conversation(), tiny_conversation()], ids=["internvl", "tiny"])
def test_a_captions_first_token_is_its_twin_with_a_space(conversation: Conversation) -> None:
    model = tiny_internvl(patch_size=4, downsample_ratio=0.5, **SMALL).model
    vlm = InternVL(model, byte_level(), 32, conversation)
    cat, spaced = vlm.tokenizer.convert_tokens_to_ids(["cat", "Ġcat"])
    starts = word_starts(vlm)
    assert starts is not None
    expected = torch.arange(vlm.embedding_weight.shape[0])
    expected[cat] = spaced
    assert torch.equal(starts, expected)
    # as an answer and as a phrase, which stands behind a space
    assert token_ids(vlm.tokenizer, "cat") == [cat]
    assert spaced in token_ids(vlm.tokenizer, conversation.segment_prompt("cat"))
    assert cat not in token_ids(vlm.tokenizer, conversation.segment_prompt("cat"))


def test_no_twins_where_the_vocabulary_or_the_template_has_none() -> None:
    model = tiny_internvl(patch_size=4, downsample_ratio=0.5, **SMALL).model
    assert word_starts(InternVL(model, byte_level(spaced=False), 32, Conversation())) is None
    template = Conversation(segment="Please segment:{phrase}<|im_end|>")
    assert not template.phrase_starts_a_word
    assert word_starts(InternVL(model, byte_level(), 32, template)) is None


@pytest.mark.parametrize("build", [tiny_internvl, tiny_qwen2_vl])
def test_the_tiny_tokenizers_words_have_their_space_already(build: Any) -> None:
    vlm = build(**SMALL)
    starts = word_starts(vlm)
    assert starts is not None
    (moved,) = (starts != torch.arange(len(starts))).nonzero(as_tuple=True)
    assert vlm.tokenizer.convert_ids_to_tokens(moved.tolist()) == ["a"]  # the letter; " a" is one of the words
    assert vlm.tokenizer.convert_ids_to_tokens(starts[moved].tolist()) == ["Ġa"]
