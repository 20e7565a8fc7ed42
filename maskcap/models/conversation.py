"""Prompt templates and special tokens of both directions."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SLOT = "<IMG_CONTEXT>"
REGION_OPEN, REGION_SLOT, REGION_CLOSE = "<vp>", "<VP_CONTEXT>", "</vp>"
SEG = "[SEG]"
ADDED_TOKENS = (REGION_OPEN, REGION_SLOT, REGION_CLOSE, SEG)


@dataclass(frozen=True)
class Conversation:
    """The words around images, regions and phrases.

    A sequence is `prefix` (the image's tokens stand at IMAGE_SLOT) and then one question and answer. The region's
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

    def describe_prompt(self, question: str | None) -> str:
        """The text before the caption; `question` None takes the default one."""
        return self.describe.format(question=question or self.default_question)

    def segment_prompt(self, phrase: str) -> str:
        """The text before the answer that holds [SEG]."""
        return self.segment.format(phrase=phrase)


def tiny_conversation() -> Conversation:
    """The same slots with as few words as a model without pretraining needs."""
    return Conversation(
        prefix=f"<img>{IMAGE_SLOT}</img>",
        describe=f"<|im_start|>{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}{{question}}<|im_end|>",
        default_question=" describe",
        segment="<|im_start|> segment {phrase}<|im_end|>",
        segment_answer=SEG,
    )
