"""Sequences: what stands where."""

from __future__ import annotations

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.errors import SequenceTooLongError
from maskcap.loops.base import StepContext
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.sequence import RegionTokens, Segment, build_prefixes, build_sequences


def test_slots_hold_the_features_and_labels_are_the_answer(tiny_model: MaskCaptionModel) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(2, 16, 32)
    regions = RegionTokens(torch.randn(5, 32), [2, 3])
    segments = [
        Segment(1, vlm.conversation.describe_prompt(None), "red circle", 0),
        Segment(0, vlm.conversation.describe_prompt(None), "large blue cross at the top", 1),
    ]
    sequences = build_sequences(vlm, segments, image, regions)
    flat = sequences.inputs_embeds.flatten(0, 1)
    assert torch.equal(flat[sequences.image_positions].view(2, 16, 32), image[[1, 0]])
    lengths = sequences.attention_mask.sum(1)
    # <img> 16 </img> | <|im_start|> <vp> n </vp> describe <|im_end|> | the answer and <|im_end|>
    assert lengths.tolist() == [18 + 7 + 0 + 3, 18 + 5 + 3 + 7]
    texts = vlm.tokenizer.decode(sequences.answer_ids)
    assert texts == " red circle<|im_end|> large blue cross at the top<|im_end|>"
    # the state before an answer's token predicts it: the first answer starts after 18 + 7 tokens
    assert sequences.answer_positions[:3].tolist() == [24, 25, 26]
    assert sequences.position_ids[0, :4].tolist() == [0, 1, 2, 3]


def test_region_tokens_follow_the_segments_not_the_batch(tiny_model: MaskCaptionModel) -> None:
    vlm = tiny_model.vlm
    regions = RegionTokens(torch.randn(3, 32), [1, 2])
    prompt = vlm.conversation.describe_prompt(None)
    sequences = build_sequences(vlm, [Segment(0, prompt, None, 1), Segment(0, prompt, None, 0)], None, regions)
    assert torch.equal(sequences.inputs_embeds[0, 4:6], regions.features[1:])
    assert torch.equal(sequences.inputs_embeds[1, 4], regions.features[0])


def test_left_padding_ends_every_row_at_the_same_place(tiny_model: MaskCaptionModel) -> None:
    segments = [Segment(0, "<|im_start|> red"), Segment(0, "<|im_start|> large red circle")]
    sequences = build_sequences(tiny_model.vlm, segments, None, padding="left")
    assert sequences.attention_mask[:, -1].tolist() == [1, 1]
    assert sequences.attention_mask[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert sequences.position_ids[0].tolist() == [0, 0, 0, 1, 2, 3]


def test_a_segments_states_do_not_depend_on_its_neighbours_or_padding(tiny_model: MaskCaptionModel) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(2, 16, 32)
    segments = [
        Segment(0, vlm.conversation.segment_prompt("red circle"), "[SEG]"),
        Segment(1, vlm.conversation.segment_prompt("large blue cross at the top left"), "[SEG]"),
    ]
    together = build_sequences(vlm, segments, image)
    states = vlm.hidden_states(together).flatten(0, 1)[together.seg_positions]
    for index, segment in enumerate(segments):
        alone = build_sequences(vlm, [segment], image)
        single = vlm.hidden_states(alone).flatten(0, 1)[alone.seg_positions]
        torch.testing.assert_close(single[0], states[index], rtol=1e-4, atol=1e-5)


def test_prefix_states_equal_those_inside_a_sequence(tiny_model: MaskCaptionModel) -> None:
    vlm = tiny_model.vlm
    image = torch.randn(1, 16, 32)
    prefix = build_prefixes(vlm, image)
    full = build_sequences(vlm, [Segment(0, "<|im_start|> segment", "[SEG]")], image)
    a = vlm.hidden_states(prefix).flatten(0, 1)[prefix.image_positions]
    b = vlm.hidden_states(full).flatten(0, 1)[full.image_positions]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_too_long_a_sequence_names_the_sample(tiny_model: MaskCaptionModel) -> None:
    segment = Segment(0, "<|im_start|> red", name="refcoco/train/7 region 3")
    with pytest.raises(SequenceTooLongError, match="refcoco/train/7 region 3 needs 20 tokens with its image"):
        build_sequences(tiny_model.vlm, [segment], torch.zeros(1, 16, 32), max_length=19)


def test_a_forked_prefix_gives_the_states_losses_and_gradients_of_whole_sequences(
    tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    results = {}
    for packing in ("none", "fork"):
        tiny_model.packing = packing
        tiny_model.zero_grad()
        context = StepContext(tiny_model.encode(tiny_batch.image1))
        losses = [loop(tiny_model, tiny_batch, context).loss for loop in (MaskToCaption(), CaptionToMask())]
        torch.stack(losses).sum().backward()
        gradients = {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}
        phrases = tiny_model.read_phrases(context.encoded, ["red circle", "a large blue cross"], [1, 0])
        results[packing] = (losses, gradients, phrases.seg_states)
    none, fork = results["none"], results["fork"]
    for a, b in zip(none[0], fork[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(none[2], fork[2], rtol=1e-4, atol=1e-5)
    assert none[1].keys() == fork[1].keys()
    for name, gradient in none[1].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradient, fork[1][name], rtol=1e-3, atol=1e-4 * scale + 1e-7)
