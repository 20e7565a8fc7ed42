"""The trees' mask against a definition written out, in every form that it is given to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from maskcap.errors import ConfigError
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.packing import lay_out, plan_rows
from maskcap.models.pieces import Piece, text_before
from maskcap.models.presets import tiny_internvl
from maskcap.models.segments import Questions, one_turn
from maskcap.models.sequence import build_sequences
from maskcap.models.tree_attention import TreeMask, choose_attention

PREFIXES = {(image, keep): text_before(np.arange(1, 6 if keep else 3)) for image in range(3) for keep in (True, False)}
LENGTHS = {kept: len(before.ids) for kept, before in PREFIXES.items()}


def random_trees(seed: int) -> tuple[TreeMask, np.ndarray, int]:
    """A mask, the same by definition bool (N, L, L) of real queries, and the number of pairs as counted."""
    rng = np.random.default_rng(seed)
    pieces = [Piece(np.ones(length, dtype=np.int64), np.ones(length, dtype=bool)) for length in rng.integers(1, 9, 12)]
    segments = [one_turn(int(rng.integers(3)), "", keep_image=bool(rng.random() < 0.7)) for _ in pieces]
    rows = plan_rows(segments, pieces, LENGTHS, "tree", int(rng.integers(10, 80)))
    grid = lay_out(rows, pieces, PREFIXES, 0)
    expected = np.zeros((*grid.ids.shape, grid.ids.shape[1]), dtype=bool)
    for n, row in enumerate(rows):
        at = 0
        for tree in row:
            prefix = list(range(at, at + len(PREFIXES[tree.image, tree.keep_image].ids)))
            at += len(prefix)
            for query in prefix:
                expected[n, query, [key for key in prefix if key <= query]] = True
            for number in tree.segments:
                own = list(range(at, at + len(pieces[number].ids)))
                at += len(own)
                for query in own:
                    expected[n, query, [*prefix, *(key for key in own if key <= query)]] = True
    return TreeMask(torch.from_numpy(grid.tree), torch.from_numpy(grid.branch)), expected, grid.pairs


@pytest.mark.parametrize("seed", range(8))
def test_a_token_sees_its_prefix_and_its_own_segment(seed: int):
    mask, expected, pairs = random_trees(seed)
    real = (mask.tree >= 0).numpy()
    allowed = mask.allowed()[:, 0].numpy()
    assert np.array_equal(allowed & real[:, :, None], expected) and pairs == expected.sum()
    assert allowed.any(axis=2).all()  # padding too: a softmax over nothing is not a number
    assert not (allowed & ~real[:, :, None] & real[:, None, :]).any()


@pytest.mark.parametrize("seed", range(3))
def test_flex_attentions_blocks_hold_the_same_pairs(seed: int):
    mask, _, _ = random_trees(seed)
    blocks: Any = mask.for_model("flex_attention", torch.float32)
    rows, length = mask.tree.shape
    assert torch.equal(create_mask(blocks.mask_mod, rows, 1, length, length, device="cpu"), mask.allowed())


def test_sdpa_and_eager_attention_give_the_same_states(tiny_model: MaskCaptionModel, image_tokens: Callable):
    vlm = tiny_model.vlm.eval()
    segments = [one_turn(image, vlm.conversation.segment_prompt("red circle"), "[SEG]") for image in (0, 0, 1)]
    sequences = build_sequences(vlm, Questions(segments), image_tokens(torch.randn(2, 16, 32)))
    states = vlm.hidden_states(sequences)
    vlm.language_model.set_attn_implementation("eager")
    torch.testing.assert_close(vlm.hidden_states(sequences), states, rtol=1e-4, atol=1e-5)


def test_attention_that_cannot_take_trees_is_named(tiny_model: MaskCaptionModel):
    mask, _, _ = random_trees(0)
    with pytest.raises(ConfigError, match="flash_attention_2.*packing=none"):
        mask.for_model("flash_attention_2", torch.float32)
    with pytest.raises(ConfigError, match="mask_caption.attention='fast'"):
        choose_attention(tiny_model.vlm.language_model, "fast")  # type: ignore[arg-type]


def test_flex_is_chosen_where_its_kernels_run(tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch):
    language_model = tiny_model.vlm.language_model  # heads of 8: too narrow for FlexAttention
    for available, attention, chosen in [
        (False, "auto", "sdpa"),
        (True, "auto", "sdpa"),
        (True, "sdpa", "sdpa"),
        (True, "flex", "flex_attention"),
    ]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        choose_attention(language_model, attention)  # type: ignore[arg-type]
        assert language_model.config._attn_implementation == chosen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="attention=flex needs CUDA"):
        choose_attention(language_model, "flex")  # type: ignore[arg-type]
    language_model.config.head_dim = 64
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose_attention(language_model, "auto")
    assert language_model.config._attn_implementation == "flex_attention"


def test_a_model_without_flex_keeps_sdpa(qwen_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch):
    language_model = qwen_model.vlm.language_model
    language_model.config.head_dim = 64
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose_attention(language_model, "auto")  # type: ignore[arg-type]
    assert language_model.config._attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match="no FlexAttention for Qwen2VLTextModel"):
        choose_attention(language_model, "flex")  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: FlexAttention has no backward on a CPU")
def test_flex_attention_gives_sdpas_states_and_gradients(image_tokens: Callable):
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=64, vit_layers=1).cuda()
    segments = [one_turn(image, vlm.conversation.segment_prompt("red circle"), "[SEG]") for image in (0, 0, 1)]
    weight = torch.randn(64, generator=torch.Generator().manual_seed(1)).cuda()  # the sum of squares is normed away
    found = {}
    for attention in ("sdpa", "flex"):
        choose_attention(vlm.language_model, attention)  # type: ignore[arg-type]
        features = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0)).cuda().requires_grad_()
        states = vlm.hidden_states(build_sequences(vlm, Questions(segments), image_tokens(features)))
        (states * weight).sum().backward()
        found[attention] = states.detach(), features.grad
    for flex, sdpa in zip(found["flex"], found["sdpa"], strict=True):
        torch.testing.assert_close(flex, sdpa, rtol=1e-2, atol=1e-2)  # the kernels may round products to TF32
