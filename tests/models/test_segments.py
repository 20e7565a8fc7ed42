"""Segments on the host: joined questions, and token ids made in few calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maskcap.models.conversation import REGION_SLOT, Tokens, Words, token_ids, tokenise
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.pieces import pieces_of
from maskcap.models.segments import Exchange, Questions, RegionTokens, Segment, join_questions, one_turn


def test_joined_questions_number_their_regions_on():
    first = Questions([one_turn(0, "a", regions=(1,)), one_turn(0, "b")], RegionTokens(torch.zeros(5, 2), [2, 3]))
    second = Questions([one_turn(1, "c")], image_states=True)
    third = Questions([one_turn(1, "d", regions=(0,))], RegionTokens(torch.ones(1, 2), [1]))
    joined = join_questions([first, second, third])
    assert [segment.regions for segment in joined.segments] == [(1,), (), (), (2,)]
    assert joined.regions is not None and joined.regions.counts == [2, 3, 1]
    assert joined.regions.features.sum() == 2 and joined.image_states
    alone = join_questions([first, second])
    assert alone.regions is first.regions  # no copy where one loop alone has regions


def test_tokens_are_those_of_single_calls_and_the_tokenizer_is_called_twice(tiny_model: MaskCaptionModel):
    tokenizer: Any = tiny_model.vlm.tokenizer
    open_ = "<|im_start|> segment"
    prompts = [open_, [" a", Words(" red [SEG]"), "<|im_end|>"], "", [Words("")], open_]
    calls = []

    def counted(texts: list[str], **options: Any) -> Any:
        calls.append(texts)
        return tokenizer(texts, **options)

    rows = tokenise(counted, prompts)
    assert rows == [token_ids(tokenizer, prompt) for prompt in prompts] and rows[2] == rows[3] == []
    assert calls == [["<|im_start|> segment", " a", "<|im_end|>"], [" red [SEG]"]]
    assert tokenizer.convert_tokens_to_ids("[SEG]") not in rows[1]


def test_a_piece_is_prompt_and_answer_with_the_regions_slots(tiny_model: MaskCaptionModel):
    vlm: Any = tiny_model.vlm
    regions = RegionTokens(torch.zeros(3, 32), [1, 2])
    segments = [one_turn(0, vlm.conversation.describe_prompt(None), [Words("red")], (1,)), one_turn(0, " a")]
    described, asked = pieces_of(vlm, segments, regions)
    text = "<|im_start|><vp><VP_CONTEXT><VP_CONTEXT></vp> describe<|im_end|> red<|im_end|>"
    assert vlm.tokenizer.decode(described.ids).replace("> ", ">") == text.replace("> ", ">")
    assert np.flatnonzero(described.learned).tolist() == [len(described.ids) - 2, len(described.ids) - 1]
    assert not asked.learned.any()


def test_a_piece_of_several_turns_learns_its_answers_alone(tiny_model: MaskCaptionModel):
    vlm: Any = tiny_model.vlm
    exchanges = Exchange("<vp><VP_CONTEXT></vp>", [Words("red [SEG]")]), Exchange(" a<vp><VP_CONTEXT></vp>", "[SEG]")
    regions = RegionTokens(torch.zeros(3, 32), [1, 2])
    (piece,) = pieces_of(vlm, [Segment(0, exchanges, (1, 0))], regions)
    learned = vlm.tokenizer.decode(piece.ids[piece.learned])
    assert learned.replace(" ", "") == "red[SEG]<|im_end|>[SEG]<|im_end|>"
    asked = vlm.tokenizer.decode(piece.ids[~piece.learned])
    assert asked.replace(" ", "") == "<vp><VP_CONTEXT><VP_CONTEXT></vp>a<vp><VP_CONTEXT></vp>"
    for wrong, given in (((0,), regions), ((0, 1, 1), regions), ((0, 1), None)):
        with pytest.raises(ValueError, match="set/train/3 has 2 slots for the tokens of [013] regions"):
            pieces_of(vlm, [Segment(0, exchanges, wrong, name="set/train/3")], given)


def test_the_models_own_answer_gets_no_further_end(tiny_model: MaskCaptionModel):
    vlm: Any = tiny_model.vlm
    end = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.end)
    red, *letters = vlm.tokenizer.convert_tokens_to_ids(["Ġred", "r", "e", "d"])
    own = [[Tokens((red, end))], [Tokens((red,))], [Tokens((*letters, end))]]
    given: list[Any] = [*own, [Words("red")], "[SEG]", None]
    pieces = pieces_of(vlm, [one_turn(0, " a", answer) for answer in given], None)
    seg = vlm.tokenizer.convert_tokens_to_ids("[SEG]")
    assert [piece.ids[piece.learned].tolist() for piece in pieces] == [
        [red, end],
        [red],  # cut at the limit: it has no end to learn
        [*letters, end],
        [red, end],
        [seg, end],
        [],
    ]
    assert all(piece.ids[~piece.learned].tolist() == token_ids(vlm.tokenizer, " a") for piece in pieces)


def test_a_spoken_phrases_slot_is_as_long_as_its_embeddings(tiny_model: MaskCaptionModel):
    vlm: Any = tiny_model.vlm
    slot = vlm.tokenizer.convert_tokens_to_ids(REGION_SLOT)
    questions = tiny_model.spoken_questions(RegionTokens(torch.zeros(4, 32), [1, 3]), [0, 0], names=["a", "b"])
    pieces = pieces_of(vlm, questions.segments, questions.regions)
    assert [piece.ids.tolist().count(slot) for piece in pieces] == [1, 3]
    assert [segment.name for segment in questions.segments] == ["a", "b"]
    assert not questions.image_states and all(segment.exchanges[0].answer == "[SEG]" for segment in questions.segments)


def test_regions_with_positions_and_phrases_without_are_read_together() -> None:
    """With M-RoPE a region has positions of its own, a phrase's embeddings stand as text."""
    place = (np.zeros((3, 2), dtype=np.int64), 4)
    regions = Questions([one_turn(0, "a", regions=(0,))], RegionTokens(torch.zeros(2, 4), [2], [place]))
    phrases = Questions(
        [one_turn(0, "b", regions=(0,)), one_turn(0, "c", regions=(1,))], RegionTokens(torch.ones(3, 4), [1, 2])
    )
    for asked, expected in (([regions, phrases], [place, None, None]), ([phrases, regions], [None, None, place])):
        joined = join_questions(asked).regions
        assert joined is not None and joined.positions == expected and len(joined.counts) == 3
    assert join_questions([phrases, phrases]).regions.positions is None  # type: ignore[union-attr]
