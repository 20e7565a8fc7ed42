"""The words of conversations and grounded answers, and grounded answers read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskcap.data.record import Turn
from maskcap.models.conversation import Conversation, qwen_conversation, token_ids
from maskcap.models.dialogue import grounded_phrases, parse_grounded
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.segments import RegionTokens
from maskcap.models.tiny_tokenizer import tiny_tokenizer


def text_of(prompt: Any) -> str:
    """A prompt's pieces as one text."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in prompt)


@pytest.mark.parametrize("conversation", [Conversation(), qwen_conversation()])
def test_the_words_are_upstreams(conversation: Conversation) -> None:
    def region(number: int) -> str:
        return f"region{number}<vp><VP_CONTEXT></vp>"

    turn = "<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(conversation.turn_prompt("What?", 0)) == f"What?{turn}"
    one = f"There is 1 part region in the picture: {region(1)}. What?{turn}"
    assert text_of(conversation.turn_prompt("What?", 1)) == one
    two = f"There are 2 part regions in the picture: {region(1)}, {region(2)}. What?{turn}"
    assert text_of(conversation.turn_prompt("What?", 2)) == two
    assert text_of(conversation.turn_prompt("What?")) == f"\n<|im_start|>user\nWhat?{turn}"
    parts = [("A ", False), ("man", True), (" sits.", False)]
    assert text_of(conversation.grounded_answer(parts)) == "A <p> man </p> [SEG] sits."


def test_control_tokens_in_a_conversations_words_are_plain_text(tiny_model: MaskCaptionModel) -> None:
    tokenizer: Any = tiny_model.vlm.tokenizer
    conversation: Conversation = tiny_model.vlm.conversation  # type: ignore[assignment]
    control = set(tokenizer.convert_tokens_to_ids(["[SEG]", "<vp>", "<VP_CONTEXT>"]))
    assert not control & set(token_ids(tokenizer, conversation.turn_prompt("[SEG] <vp> {regions}", 0)))
    ids = token_ids(tokenizer, conversation.grounded_answer([("[SEG] a ", False), ("<vp>[SEG]", True)]))
    assert [token for token in ids if token in control] == tokenizer.convert_tokens_to_ids(["[SEG]"])


def test_regions_are_numbered_as_they_are_shown(tiny_model: MaskCaptionModel) -> None:
    turns = Turn("compare <region2> and <region4>", "both"), Turn("the shape of <region4>", "a square")
    regions = RegionTokens(torch.zeros(3, 32), [1, 2])
    (segment,) = tiny_model.dialogue_questions([turns], [0], regions, [[1, 0]], [True], ["a"]).segments
    assert segment.regions == (1, 0)
    texts = [text_of(exchange.prompt) for exchange in segment.exchanges]
    slots = " region1<vp><VP_CONTEXT></vp> region2<vp><VP_CONTEXT></vp>"
    assert texts == [
        f"<|im_start|>{slots}compare region1 and region2<|im_end|>",
        "<|im_start|>the shape of region2<|im_end|>",
    ]
    with pytest.raises(ValueError, match="b: the questions name 2 regions, and the tokens of 1 were given"):
        tiny_model.dialogue_questions([turns], [0], regions, [[1]], [True], ["b"])


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("<p> A man </p> [SEG] sits on <p>a bench</p>[SEG].", ["A man", "a bench"]),
        ("[SEG] then <p> two words </p>  [SEG]", ["", "two words"]),
        ("<p> a <p> b </p> [SEG]", ["b"]),
        ("<p> a </p> is it [SEG] <p> c </p>", [""]),
        ("<p> a [SEG] </p> [SEG]", ["", ""]),
        ("<p> over\nlines </p>\n[SEG]", ["over\nlines"]),
        ("no mask at all", []),
    ],
)
def test_the_phrase_before_each_seg(text: str, phrases: list[str]) -> None:
    assert parse_grounded(text) == phrases
    tokenizer = tiny_tokenizer()
    ids = token_ids(tokenizer, text)
    assert grounded_phrases(tokenizer, ids) == phrases


def test_a_seg_in_letters_is_none(tiny_model: MaskCaptionModel) -> None:
    tokenizer: Any = tiny_model.vlm.tokenizer
    letters = tokenizer.convert_tokens_to_ids([*"[SEG]"])
    seg = tokenizer.convert_tokens_to_ids("[SEG]")
    assert grounded_phrases(tokenizer, [*letters, seg]) == [""] and grounded_phrases(tokenizer, letters) == []
    assert parse_grounded(tokenizer.decode([*letters, seg])) == ["", ""]
