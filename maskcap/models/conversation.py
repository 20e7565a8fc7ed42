"""Prompt templates and special tokens of both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, TypeAlias

IMAGE_SLOT = "<IMG_CONTEXT>"
REGION_OPEN, REGION_SLOT, REGION_CLOSE = "<vp>", "<VP_CONTEXT>", "</vp>"
SEG = "[SEG]"
QWEN_SLOT = "<|image_pad|>"
QWEN_IMAGE = f"<|vision_start|>{QWEN_SLOT}<|vision_end|>"
ADDED_TOKENS = (REGION_OPEN, REGION_SLOT, REGION_CLOSE, SEG)


@dataclass(frozen=True)
class Words:
    """Text that comes from the data or the user: what looks like a special token in it is read letter by letter."""

    text: str


@dataclass(frozen=True)
class Tokens:
    """Token ids as a model wrote them, which reading their text again could cut otherwise."""

    ids: tuple[int, ...]


# A template's own text, in which special tokens are special, or a row of such text, Words and Tokens.
Piece: TypeAlias = "str | Words | Tokens"
Prompt: TypeAlias = "str | Sequence[Piece]"


@dataclass(frozen=True)
class Conversation:
    """The words around images, regions and phrases.

    A sequence is `prefix` (the image's tokens stand at `image_slot`) and then one question and answer. The region's
    tokens stand at REGION_SLOT; `{question}` and `{phrase}` are filled in. The defaults are InternVL's chat format
    and Sa2VA's questions; `tiny_conversation` says the same in fewer tokens.
    """

    prefix: str = f"<|im_start|>user\n<img>{IMAGE_SLOT}</img>\n"
    describe: str = (
        f"There is 1 part region in the picture: region1{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}. {{question}}"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    default_question: str = "Please give a short description of region1."
    segment: str = "Please segment {phrase} in this image.<|im_end|>\n<|im_start|>assistant\n"
    segment_answer: str = f"Sure, {SEG}."
    end: str = "<|im_end|>"
    image_slot: str = IMAGE_SLOT

    def describe_prompt(self, question: str | None) -> Prompt:
        """The text before the caption; `question` None takes the default one."""
        if question:
            return fill(self.describe, question=question)
        return self.describe.format(question=self.default_question)

    def segment_prompt(self, phrase: str) -> Prompt:
        """The text before the answer that holds [SEG]."""
        return fill(self.segment, phrase=phrase)

    @property
    def spoken_prompt(self) -> Prompt:
        """As `segment_prompt`, with REGION_SLOT for the tokens of a phrase that comes as embeddings."""
        return "".join(REGION_SLOT if isinstance(piece, Words) else piece for piece in fill(self.segment, phrase=""))

    @property
    def phrase_starts_a_word(self) -> bool:
        """Whether a space stands before the phrase, which its first token then begins with."""
        return Words(" ") in fill(self.segment, phrase="")


def fill(template: str, **values: str) -> list[str | Words]:
    """The template's pieces with `{name}` as Words, each with the spaces before it: tokenizers join them to words."""
    pieces: list[str | Words] = []
    for literal, name, _, _ in Formatter().parse(template):
        bare = literal if name is None else literal.rstrip(" ")
        pieces += [bare] if bare else []
        if name is not None:
            pieces.append(Words(literal[len(bare) :] + values[name]))
    return pieces


def tokenise(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt (template text, Words, Tokens), without the tokens that a tokenizer adds at the ends.

    Equal pieces are read once and all of a kind in one call: a tokenizer's calls cost more than their words.
    """
    pieces = [[prompt] if isinstance(prompt, str) else prompt for prompt in prompts]
    found: dict[Piece, Sequence[int]] = {"": [], Words(""): []}
    found |= {piece: piece.ids for row in pieces for piece in row if isinstance(piece, Tokens)}
    for kind in (str, Words):
        new = list(dict.fromkeys(piece for row in pieces for piece in row if isinstance(piece, kind)))
        new = [piece for piece in new if piece not in found]
        if new:
            texts = [piece.text if isinstance(piece, Words) else piece for piece in new]
            rows = tokenizer(texts, add_special_tokens=False, split_special_tokens=kind is Words).input_ids
            found.update(zip(new, rows, strict=True))
    return [[token for piece in row for token in found[piece]] for row in pieces]


def token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """As `tokenise`, of one prompt."""
    return tokenise(tokenizer, [prompt])[0]


def qwen_conversation() -> Conversation:
    """Qwen2-VL's chat format around the same questions."""
    return Conversation(
        prefix=f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{QWEN_IMAGE}\n",
        image_slot=QWEN_SLOT,
    )


def tiny_conversation(image: str = f"<img>{IMAGE_SLOT}</img>", image_slot: str = IMAGE_SLOT) -> Conversation:
    """The same slots with as few words as a model without pretraining needs; image: the slot with what frames it."""
    return Conversation(
        prefix=image,
        describe=f"<|im_start|>{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}{{question}}<|im_end|>",
        default_question=" describe",
        segment="<|im_start|> segment {phrase}<|im_end|>",
        segment_answer=SEG,
        image_slot=image_slot,
    )
