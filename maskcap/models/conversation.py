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
PHRASE_OPEN, PHRASE_CLOSE = "<p>", "</p>"
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

    A sequence is `prefix` (the image's tokens stand at `image_slot`), a `frame` for each further image, or `no_image`
    where their tokens are left out, and then questions and answers. A region's tokens stand at REGION_SLOT;
    `{question}` and `{phrase}` are filled in. The defaults are InternVL's chat format and Sa2VA's questions;
    `tiny_conversation` says the same in fewer tokens.

    first_turn, next_turn: the questions of a conversation; `{regions}` is nothing, or `one_region` or `more_regions`,
    in which `region` stands for each. phrase: of a grounded answer, with its [SEG]. added_tokens: special tokens that a
    tokenizer gets where it lacks them.
    """

    prefix: str = f"<|im_start|>user\n<img>{IMAGE_SLOT}</img>\n"
    frame: str = f"<img>{IMAGE_SLOT}</img>\n"
    no_image: str = "<|im_start|>user\n"
    describe: str = (
        f"There is 1 part region in the picture: region1{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}. {{question}}"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    default_question: str = "Please give a short description of region1."
    segment: str = "Please segment {phrase} in this image.<|im_end|>\n<|im_start|>assistant\n"
    segment_answer: str = f"Sure, {SEG}."
    first_turn: str = "{regions}{question}<|im_end|>\n<|im_start|>assistant\n"
    next_turn: str = "\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    one_region: str = "There is 1 part region in the picture: {regions}. "
    more_regions: str = "There are {count} part regions in the picture: {regions}. "
    region: str = f"region{{number}}{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}"
    between_regions: str = ", "
    phrase: str = f"{PHRASE_OPEN} {{phrase}} {PHRASE_CLOSE} {SEG}"
    end: str = "<|im_end|>"
    image_slot: str = IMAGE_SLOT
    added_tokens: tuple[str, ...] = (*ADDED_TOKENS, PHRASE_OPEN, PHRASE_CLOSE)

    def describe_prompt(self, question: str | None) -> Prompt:
        """The text before the caption; `question` None takes the default one."""
        if question:
            return fill(self.describe, question=question)
        return self.describe.format(question=self.default_question)

    def segment_prompt(self, phrase: str) -> Prompt:
        """The text before the answer that holds [SEG]."""
        return fill(self.segment, phrase=phrase)

    def turn_prompt(self, question: str, regions: int | None = None) -> Prompt:
        """The text before a conversation's next answer; regions: how many the first question introduces, None for a
        later question."""
        if regions is None:
            return fill(self.next_turn, question=question)
        return fill(self.first_turn.replace("{regions}", self._introduce(regions)), question=question)

    def grounded_answer(self, parts: Sequence[tuple[str, bool]]) -> Prompt:
        """An answer of parts, of which those that are True are phrases with a mask."""
        pieces: list[Piece] = []
        for text, is_phrase in parts:
            pieces += fill(self.phrase, phrase=text) if is_phrase else [Words(text)] if text else []
        return pieces

    def _introduce(self, count: int) -> str:
        """The regions' tokens with their numbers, from 1 on."""
        if not count:
            return ""
        regions = self.between_regions.join(self.region.format(number=number) for number in range(1, count + 1))
        return (self.one_region if count == 1 else self.more_regions).format(count=count, regions=regions)

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
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    return Conversation(
        prefix=f"{before}{QWEN_IMAGE}\n", frame=f"{QWEN_IMAGE}\n", no_image=before, image_slot=QWEN_SLOT
    )


def tiny_conversation(image: str = f"<img>{IMAGE_SLOT}</img>", image_slot: str = IMAGE_SLOT) -> Conversation:
    """The same slots with as few words as a model without pretraining needs; image: the slot with what frames it."""
    return Conversation(
        prefix=image,
        frame=image,
        no_image=image.replace(image_slot, ""),
        describe=f"<|im_start|>{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}{{question}}<|im_end|>",
        default_question=" describe",
        segment="<|im_start|> segment {phrase}<|im_end|>",
        segment_answer=SEG,
        first_turn="<|im_start|>{regions}{question}<|im_end|>",
        next_turn="<|im_start|>{question}<|im_end|>",
        one_region="{regions}",
        more_regions="{regions}",
        region=f" region{{number}}{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}",
        between_regions="",
        phrase=f"{PHRASE_OPEN}{{phrase}}{PHRASE_CLOSE}{SEG}",
        image_slot=image_slot,
        added_tokens=ADDED_TOKENS,  # each more would change the vocabulary's size, by which its weights are drawn
    )
