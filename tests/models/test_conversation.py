"""Templates filled with the data's words: ordinary ones cost what they did, control tokens in them are plain text."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from maskcap.models.conversation import (
    ADDED_TOKENS,
    IMAGE_SLOT,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    REGION_SLOT,
    Conversation,
    Tokens,
    Words,
    qwen_conversation,
    tiny_conversation,
    token_ids,
    tokenise,
)
from maskcap.models.presets import tiny_internvl
from maskcap.models.tiny_tokenizer import SPECIAL, tiny_tokenizer
from maskcap.models.vlm.internvl import InternVL

# Qwen2's pre-tokenizer, which InternVL3 uses.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = ("large red circle at the top left", "2 men, (left)", "naïve 日本", "{curly}", "the man's No. 17!")


def qwen_like(special: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE split as Qwen2 does, a few merges learned; its control tokens special or only added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "Please segment it in this image. Please give a short description"], trainer)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), qwen_like()], ids=["tiny", "qwen"])
@pytest.mark.parametrize("conversation", [Conversation(), tiny_conversation()], ids=["internvl", "tiny"])
@pytest.mark.parametrize("text", TEXTS)
def test_ordinary_words_have_the_ids_of_the_whole_text(tokenizer, conversation: Conversation, text: str) -> None:
    def whole(template: str) -> list[int]:
        return tokenizer(template, add_special_tokens=False).input_ids

    segment = conversation.segment.format(phrase=text)
    assert token_ids(tokenizer, conversation.segment_prompt(text)) == whole(segment)
    describe = conversation.describe.format(question=text)
    assert token_ids(tokenizer, conversation.describe_prompt(text)) == whole(describe)
    default = conversation.describe.format(question=conversation.default_question)
    assert token_ids(tokenizer, conversation.describe_prompt(None)) == whole(default)
    assert token_ids(tokenizer, [Words(text), conversation.end]) == whole(text + conversation.end)


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), qwen_like()], ids=["tiny", "qwen"])
@pytest.mark.parametrize("conversation", [Conversation(), tiny_conversation()], ids=["internvl", "tiny"])
def test_control_tokens_in_the_datas_words_are_plain_text(tokenizer, conversation: Conversation) -> None:
    control = set(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    text = "a " + "x".join(SPECIAL)
    assert not control & set(token_ids(tokenizer, [Words(text)]))
    assert tokenizer.decode(token_ids(tokenizer, [Words(text)])).strip() == text
    for prompt, plain in (
        (conversation.segment_prompt(text), conversation.segment_prompt("x")),
        (conversation.describe_prompt(text), conversation.describe_prompt("x")),
    ):
        kept, expected = ([i for i in token_ids(tokenizer, p) if i in control] for p in (prompt, plain))
        assert kept == expected != []
    assert (
        token_ids(tokenizer, conversation.segment_answer)
        == tokenizer(conversation.segment_answer, add_special_tokens=False).input_ids
    )  # the template's own [SEG] stays one


def test_a_tokenizer_whose_control_tokens_are_only_added_is_put_right() -> None:
    small = {"image_size": 32, "patch_size": 4, "downsample_ratio": 0.5, "hidden_size": 32}
    model = tiny_internvl(**small, vit_layers=1, lm_layers=1).model
    tokenizer = qwen_like(special=False)
    ids = tokenizer.convert_tokens_to_ids([IMAGE_SLOT, *ADDED_TOKENS])
    vlm = InternVL(model, tokenizer, 32)
    assert vlm.tokenizer.convert_tokens_to_ids([IMAGE_SLOT, *ADDED_TOKENS]) == ids
    text = f"{IMAGE_SLOT} [SEG] <vp>"
    assert not set(ids) & set(token_ids(vlm.tokenizer, [Words(text)]))
    assert set(ids[:1]) <= set(token_ids(vlm.tokenizer, text))


def test_phrase_tokens_are_special_to_pretrained_tokenizers_alone() -> None:
    small = {"image_size": 32, "patch_size": 4, "downsample_ratio": 0.5, "hidden_size": 32}
    tiny = tiny_internvl(**small, vit_layers=1, lm_layers=1)
    assert len(tiny.tokenizer) == len(tiny_tokenizer()) == tiny.embedding_weight.shape[0]
    assert tiny.tokenizer.decode(token_ids(tiny.tokenizer, "<p> a </p>")).strip() == "<p> a </p>"
    assert len(token_ids(tiny.tokenizer, "<p>")) > 1
    vlm = InternVL(tiny.model, qwen_like(), 32)  # the default conversation is of pretrained models
    ids = vlm.tokenizer.convert_tokens_to_ids([PHRASE_OPEN, PHRASE_CLOSE])
    assert [token for token in token_ids(vlm.tokenizer, "<p> a </p> [SEG]") if token in ids] == ids
    assert not set(ids) & set(token_ids(vlm.tokenizer, [Words("<p> a </p>")]))
    assert max(ids) < vlm.embedding_weight.shape[0] and vlm.tokenizer.decode(ids, skip_special_tokens=True) == ""


def test_an_answers_pieces_have_the_ids_of_the_whole_text() -> None:
    vlm = InternVL(tiny_internvl(32, 4, 0.5, 32, 1, 1).model, qwen_like(), 32)
    conversation = Conversation()
    parts = [("the man's ", False), ("2 men", True), (", (left) and ", False), ("a circle", True), (".", False)]
    text = "the man's <p> 2 men </p> [SEG], (left) and <p> a circle </p> [SEG]."
    whole = vlm.tokenizer(text, add_special_tokens=False).input_ids
    assert token_ids(vlm.tokenizer, conversation.grounded_answer(parts)) == whole
    question = conversation.turn_prompt("what is region1?", 1)
    text = conversation.first_turn.format(
        regions=f"There is 1 part region in the picture: region1<vp>{REGION_SLOT}</vp>. ", question="what is region1?"
    )
    assert token_ids(vlm.tokenizer, question) == vlm.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), qwen_like()], ids=["tiny", "qwen"])
def test_tokens_pass_as_they_are(tokenizer) -> None:
    control = tokenizer.convert_tokens_to_ids(["[SEG]", "<pad>"])
    letters = tuple(tokenizer.convert_tokens_to_ids([*"red"]))
    assert list(letters) != token_ids(tokenizer, [Words("red")])  # reading their text again would cut it otherwise
    own = Tokens((*letters, *control))
    words, template = Words(" red [SEG]"), "<|im_start|>"
    alone = {piece: token_ids(tokenizer, [piece]) for piece in (words, template)}
    rows = tokenise(tokenizer, [[template, own, words], [Tokens(())], [own, own], [Tokens(letters), template]])
    assert rows == [alone[template] + [*own.ids] + alone[words], [], [*own.ids] * 2, [*letters] + alone[template]]


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(("<|image_pad|>",)), qwen_like()], ids=["tiny", "qwen"])
@pytest.mark.parametrize("conversation", [Conversation(), qwen_conversation(), tiny_conversation()])
@pytest.mark.parametrize("phrase", ["large red circle", "a man's cat", "[SEG] of <vp>", "日本"])
def test_a_spoken_phrase_stands_where_the_written_one_does(tokenizer, conversation: Conversation, phrase: str) -> None:
    slot = tokenizer.convert_tokens_to_ids(REGION_SLOT)
    spoken = token_ids(tokenizer, conversation.spoken_prompt)
    assert spoken.count(slot) == 1 and conversation.phrase_starts_a_word
    at = spoken.index(slot)
    written = spoken[:at] + token_ids(tokenizer, [Words(f" {phrase}")]) + spoken[at + 1 :]
    assert written == token_ids(tokenizer, conversation.segment_prompt(phrase))


def test_a_spoken_phrase_without_a_space_before_it() -> None:
    conversation = Conversation(segment="Segment:{phrase}<|im_end|>")
    assert conversation.spoken_prompt == f"Segment:{REGION_SLOT}<|im_end|>" and not conversation.phrase_starts_a_word
