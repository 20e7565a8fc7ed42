"""Conversations of several turns and regions: their words, their labels, their [SEG]s, packed and not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from maskcap.data.record import Phrase, Turn
from maskcap.models.conversation import token_ids
from maskcap.models.dialogue import answered
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.segments import Questions, RegionTokens
from maskcap.models.sequence import build_sequences
from tests.models.images import GROUPS, SIZES, boxes, four_images, ids_by_hand

PLAIN = (Turn("what is this", "a circle"), Turn("what colour", "red"))
TWO = (Turn("compare <region2> and <region4>", "both [SEG] are red"), Turn("the shape of <region4>", "a square"))
GROUNDED = (
    Turn("describe the image", "A man sits on a bench.", (Phrase(0, 5, 1), Phrase(14, 21, 0))),
    Turn("and <region1>", "blue"),
    Turn("who else", "people", (Phrase(0, 6, 2),)),
)


def asked_of(model: MaskCaptionModel, encoded: EncodedImages, **options: Any) -> tuple[Questions, RegionTokens]:
    """Three conversations: without regions about a video, of two regions in it, grounded about an image."""
    regions, _ = model.region_tokens(
        encoded.tokens, boxes((4, 2, 20, 20), (9, 9, 30, 30), (0, 0, 32, 12)), torch.tensor([0, 1, 2])
    )
    shown, names = [[], [0, 2], [1]], ["a", "b", "c"]
    turns = [PLAIN, TWO, GROUNDED]
    return model.dialogue_questions(turns, [0, 0, 1], regions, shown, [True] * 3, names, **options), regions


def test_labels_are_exactly_the_answers(any_model: MaskCaptionModel) -> None:
    encoded = any_model.encode(four_images(), SIZES, GROUPS)
    vlm: Any = any_model.vlm
    questions, _ = asked_of(any_model, encoded)
    sequences = build_sequences(vlm, questions, encoded.tokens)
    texts = vlm.tokenizer.batch_decode(sequences.answer_ids.split(sequences.answer_counts))
    assert [text.replace(" ", "") for text in texts] == [
        "acircle<|im_end|>red<|im_end|>",
        "both[SEG]arered<|im_end|>asquare<|im_end|>",
        "<p>Aman</p>[SEG]sitson<p>abench</p>[SEG].<|im_end|>blue<|im_end|><p>people</p>[SEG]<|im_end|>",
    ]
    # a [SEG] that the data spells is none: the second conversation's
    assert sequences.seg_counts == [0, 0, 3]


def test_every_state_is_the_one_before_its_label(any_model: MaskCaptionModel) -> None:
    encoded = any_model.encode(four_images(), SIZES, GROUPS)
    vlm: Any = any_model.vlm
    questions, regions = asked_of(any_model, encoded)
    rows = build_sequences(vlm, questions, encoded.tokens, packing="none")
    assert isinstance(rows.attention, torch.Tensor)
    flat = rows.inputs_embeds.flatten(0, 1)
    assert torch.equal(flat[rows.answer_positions + 1], vlm.embed(rows.answer_ids))
    seg = vlm.embed(torch.tensor([vlm.tokenizer.convert_tokens_to_ids("[SEG]")]))
    assert torch.equal(flat[rows.seg_positions], seg.expand(3, -1))
    assert (rows.seg_positions // rows.inputs_embeds.shape[1]).tolist() == [2, 2, 2]
    # the tokens of the regions that a conversation names stand in its row, in order
    parts = regions.features.split(regions.counts)
    for row, part in ((1, parts[0]), (1, parts[2]), (2, parts[1])):
        counts = [encoded.tokens.counts[image] for image in GROUPS[row // 2]]
        embeds = rows.inputs_embeds[row, len(ids_by_hand(vlm, counts, "")) :]  # behind the images, whose tokens it has
        starts = [at for at in range(len(embeds) - len(part)) if torch.equal(embeds[at : at + len(part)], part)]
        assert len(starts) == 1


@pytest.mark.parametrize("budget", [None, 150])
def test_a_tree_of_conversations_gives_the_numbers_of_single_ones(
    any_model: MaskCaptionModel, budget: int | None
) -> None:
    any_model.eval()
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for packing in ("tree", "none"):
        any_model.packing = packing
        any_model.token_budget = budget if packing == "tree" else None
        encoded = any_model.encode(four_images(), SIZES, GROUPS)
        questions, _ = asked_of(any_model, encoded)
        phrases = any_model.phrase_questions(["red circle", "cross"], [1, 0])
        first, second = any_model.read(encoded, [phrases, questions])
        assert first.seg_counts == [1, 1] and second.seg_counts == [0, 0, 3]
        assert sum(second.answer_counts) == len(second.answer_ids)
        keys = encoded.keys[:, :4]
        found[packing] = (first.seg_states, second.seg_states, second.answer_states, second.answer_ids, keys)
    for tree, none in zip(found["tree"], found["none"], strict=True):
        torch.testing.assert_close(tree, none, rtol=1e-4, atol=1e-4)


def test_mrope_positions_of_several_regions_are_those_of_further_images(qwen_model: MaskCaptionModel) -> None:
    encoded = qwen_model.encode(four_images(), SIZES, GROUPS)
    vlm: Any = qwen_model.vlm
    whole = torch.ones(2, 32, 32)  # all tokens: a region then stands just as the image itself would
    regions, _ = qwen_model.region_tokens(encoded.tokens, whole, torch.tensor([1, 0]))
    questions = qwen_model.dialogue_questions([TWO], [0], regions, [[0, 1]], [True], ["a"])
    rows = build_sequences(vlm, questions, encoded.tokens, packing="none")
    slot, pad = vlm.tokenizer.convert_tokens_to_ids(["<VP_CONTEXT>", vlm.conversation.image_slot])
    ids = token_ids(vlm.tokenizer, vlm.conversation.prefix + vlm.conversation.frame * 2)
    for exchange in questions.segments[0].exchanges:
        ids += token_ids(vlm.tokenizer, exchange.prompt)
        ids += token_ids(vlm.tokenizer, [*(exchange.answer or ()), vlm.conversation.end])
    grids = [encoded.tokens.layouts[image].grid or (0, 0) for image in (0, 2, 3, 1, 0)]
    left = iter(grids)
    times = [math.prod(next(left)) if token in (slot, pad) else 1 for token in ids]
    as_images = [pad if token == slot else token for token in ids]  # each region as if it were one more image
    row = torch.tensor([as_images]).repeat_interleave(torch.tensor(times), dim=1)
    grid_thw = torch.tensor([[1, 2 * height, 2 * width] for height, width in grids])
    stock, _ = vlm.model.model.get_rope_index(row, (row == pad).int(), image_grid_thw=grid_thw)
    assert torch.equal(rows.position_ids, stock)


def test_an_open_answer_is_generated_and_read_again(any_model: MaskCaptionModel) -> None:
    any_model.eval()
    vlm: Any = any_model.vlm
    encoded = any_model.encode(four_images(), SIZES, GROUPS)
    questions, _ = asked_of(any_model, encoded, open_last=True)
    assert [segment.exchanges[-1].answer for segment in questions.segments] == [None] * 3
    said = any_model.generate(encoded, questions, 3)
    assert len(said.ids) == len(said.marked) == 3
    seg, end, red = vlm.tokenizer.convert_tokens_to_ids(["[SEG]", "<|im_end|>", "Ġred"])
    ids = [[red, seg, end], [red, end], [seg, red, seg]]  # the last one was cut at the limit
    (reading,) = any_model.read(encoded, [answered(questions, ids)])
    # the grounded conversation's first answer has two
    assert reading.seg_counts == [1, 0, 4]
    given = [reading.answer_ids[sum(reading.answer_counts[:s]) :][:n] for s, n in enumerate(reading.answer_counts)]
    assert [each[-len(own) :].tolist() for each, own in zip(given, ids, strict=True)] == ids
    whole, _ = asked_of(any_model, encoded)
    (taught,) = any_model.read(encoded, [whole])
    torch.testing.assert_close(reading.seg_states[1:3], taught.seg_states[:2], rtol=1e-4, atol=1e-4)


def test_an_answer_as_it_was_taught_is_read_the_same(tiny_model: MaskCaptionModel) -> None:
    tiny_model.eval()
    encoded = tiny_model.encode(four_images(), SIZES, GROUPS)
    whole, _ = asked_of(tiny_model, encoded)
    (taught,) = tiny_model.read(encoded, [whole])
    opened, _ = asked_of(tiny_model, encoded, open_last=True)
    vlm: Any = tiny_model.vlm
    last = [token_ids(vlm.tokenizer, [*(s.exchanges[-1].answer or ()), vlm.conversation.end]) for s in whole.segments]
    (again,) = tiny_model.read(encoded, [answered(opened, last)])
    assert torch.equal(again.answer_ids, taught.answer_ids)
    torch.testing.assert_close(again.seg_states, taught.seg_states)


def test_image_states_are_asked_for_where_phrases_have_masks(tiny_model: MaskCaptionModel) -> None:
    def asked(*turns: Turn) -> Questions:
        return tiny_model.dialogue_questions([turns], [0], None, [[]], [False], ["a"])

    assert not asked(*PLAIN).image_states and asked(GROUNDED[2]).image_states
    assert [segment.keep_image for segment in asked(*PLAIN).segments] == [False]
    tiny_model.grounding = None
    assert not asked(GROUNDED[2]).image_states
