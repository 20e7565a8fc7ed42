"""Sequences: what stands where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.segments import Questions, RegionTokens, one_turn
from maskcap.models.sequence import build_continuations, build_prefixes, build_sequences
from maskcap.models.vlm.interface import ImageTokens

Wrap: TypeAlias = Callable[[torch.Tensor], ImageTokens]


def test_slots_hold_the_features_and_labels_are_the_answer(
    tiny_model: MaskCaptionModel, image_tokens: Callable
) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(2, 16, 32)
    regions = RegionTokens(torch.randn(5, 32), [2, 3])
    segments = [
        one_turn(1, vlm.conversation.describe_prompt(None), "red circle", (0,)),
        one_turn(0, vlm.conversation.describe_prompt(None), "large blue cross at the top", (1,)),
    ]
    sequences = build_sequences(vlm, Questions(segments, regions), image_tokens(image), packing="none")
    assert isinstance(sequences.attention, torch.Tensor)
    lengths = sequences.attention.sum(1)
    # <img> 16 </img> | <|im_start|> <vp> n </vp> describe <|im_end|> | the answer and <|im_end|>
    assert lengths.tolist() == [18 + 7 + 0 + 3, 18 + 5 + 3 + 7]
    assert torch.equal(sequences.inputs_embeds[:, 1:17], image[[1, 0]])
    assert torch.equal(sequences.inputs_embeds[0, 20:22], regions.features[:2])
    texts = vlm.tokenizer.decode(sequences.answer_ids)
    assert texts == " red circle<|im_end|> large blue cross at the top<|im_end|>"
    assert sequences.answer_counts == [3, 7] and sequences.seg_counts == [0, 0]
    # the state before an answer's token predicts it: the first answer starts after 18 + 7 tokens
    assert sequences.answer_positions[:3].tolist() == [24, 25, 26]
    assert sequences.position_ids[0, :4].tolist() == [0, 1, 2, 3]


def test_a_tree_lays_the_same_out_once_an_image(tiny_model: MaskCaptionModel, image_tokens: Wrap) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(2, 16, 32)
    regions = RegionTokens(torch.randn(5, 32), [2, 3])
    prompt, ask = vlm.conversation.describe_prompt(None), vlm.conversation.segment_prompt("red circle")
    segments = [one_turn(1, prompt, "red", (0,)), one_turn(1, prompt, "blue cross", (1,)), one_turn(1, ask, "[SEG]")]
    sequences = build_sequences(vlm, Questions(segments, regions, image_states=True), image_tokens(image))
    # image 1: the prefix and segments of 7 + 2, 8 + 3 and 5 + 2 tokens; image 0: the prefix alone
    assert sequences.inputs_embeds.shape[:2] == (2, 18 + 9 + 11 + 7)
    assert sequences.position_ids[0].tolist() == [*range(18), *range(18, 27), *range(18, 29), *range(18, 25)]
    assert torch.equal(sequences.inputs_embeds[0, 1:17], image[1])
    assert torch.equal(sequences.inputs_embeds[1, 1:17], image[0])
    assert torch.equal(sequences.inputs_embeds[0, 18 + 9 + 2 : 18 + 9 + 5], regions.features[2:])
    assert sequences.image_positions.tolist() == [[*range(45 + 1, 45 + 17)], [*range(1, 17)]]  # in image order
    assert vlm.tokenizer.decode(sequences.answer_ids) == " red<|im_end|> blue cross<|im_end|>[SEG]<|im_end|>"
    assert sequences.answer_counts == [2, 3, 2] and sequences.seg_counts == [0, 0, 1]
    assert sequences.seg_positions.tolist() == [18 + 9 + 11 + 5]


def test_region_tokens_follow_the_segments_not_the_batch(tiny_model: MaskCaptionModel, image_tokens: Wrap) -> None:
    vlm = tiny_model.vlm
    regions = RegionTokens(torch.randn(3, 32), [1, 2])
    prompt = vlm.conversation.describe_prompt(None)
    segments = [one_turn(0, prompt, None, (1,), keep_image=False), one_turn(0, prompt, None, (0,), keep_image=False)]
    sequences = build_sequences(vlm, Questions(segments, regions), None)
    # <img> </img> <|im_start|> <vp> n </vp> describe <|im_end|>
    assert torch.equal(sequences.inputs_embeds[0, 4:6], regions.features[1:])
    assert torch.equal(sequences.inputs_embeds[0, 9 + 2], regions.features[0])


def test_left_padding_ends_every_row_at_the_same_place(tiny_model: MaskCaptionModel, image_tokens: Wrap) -> None:
    vlm, image = tiny_model.vlm, torch.randn(1, 16, 32)
    questions = Questions([one_turn(0, "<|im_start|> red"), one_turn(0, "<|im_start|> large red circle")])
    sequences = build_continuations(vlm, questions, image_tokens(image), None)
    assert isinstance(sequences.attention, torch.Tensor)
    assert sequences.attention[0].tolist() == [0, 0, *[1] * 20]
    assert sequences.position_ids[0].tolist() == [0, 0, *range(20)]
    prefix = vlm.read_prefix(build_prefixes(vlm, image_tokens(image)))
    forked = build_continuations(vlm, questions, image_tokens(image), prefix)
    assert isinstance(forked.attention, torch.Tensor) and prefix.length == 18
    assert forked.attention.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert forked.position_ids.tolist() == [[0, 0, 18, 19], [18, 19, 20, 21]]
    assert torch.equal(forked.inputs_embeds[1], sequences.inputs_embeds[1, 18:])


def test_prefix_states_equal_those_inside_a_sequence(tiny_model: MaskCaptionModel, image_tokens: Wrap) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(1, 16, 32)
    prefix = vlm.read_prefix(build_prefixes(vlm, image_tokens(image)))
    full = build_sequences(
        vlm,
        Questions([one_turn(0, "<|im_start|> segment", "[SEG]")], image_states=True),
        image_tokens(image),
        packing="none",
    )
    states = vlm.hidden_states(full)
    assert full.image_positions.numel() == 0  # only trees have every image's prefix
    torch.testing.assert_close(prefix.states[0], states[0, 1:17], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", ["none", "tree"])
def test_too_long_a_sequence_names_the_sample(packing, tiny_model: MaskCaptionModel, image_tokens: Wrap) -> None:
    segments = [one_turn(0, "<|im_start|>"), one_turn(0, "<|im_start|> red", name="refcoco/train/7 region 3")]
    with pytest.raises(SequenceTooLongError, match="refcoco/train/7 region 3 needs 20 tokens with its image"):
        build_sequences(
            tiny_model.vlm, Questions(segments), image_tokens(torch.zeros(1, 16, 32)), packing=packing, max_length=19
        )


def test_segments_go_on_where_their_images_prefix_ends(tiled_model: MaskCaptionModel) -> None:
    tokens = tiled_model.encode_image(torch.randn(2, 3, 64, 64), [(48, 48), (32, 32)])
    prefix = tiled_model.vlm.read_prefix(build_prefixes(tiled_model.vlm, tokens))
    assert tokens.counts == [16 + 36, 16 + 16] and prefix.mask.sum(1).tolist() == [54, 34]
    questions = Questions([one_turn(1, "<|im_start|> red"), one_turn(0, "<|im_start|> large red circle")])
    rows = build_continuations(tiled_model.vlm, questions, tokens, prefix)
    assert rows.position_ids.tolist() == [[0, 0, 34, 35], [54, 55, 56, 57]]
