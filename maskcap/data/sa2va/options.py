"""How records become samples of Sa2VA's training code."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from maskcap.data.choices import Choice, FrameChoice, check_frames, check_options
from maskcap.errors import ConfigError
from maskcap.models.conversation import PHRASE_CLOSE, PHRASE_OPEN, REGION_CLOSE, REGION_OPEN, SEG

Pool = Literal["nearest", "area"]
Template = Literal["phi3_chat", "internlm2_chat", "qwen_chat"]


@dataclass(frozen=True)
class ChatFormat:
    """A turn in text: `user`, the question, `assistant`, the answer, `end` (learned as its last token), `separator`."""

    user: str
    assistant: str
    end: str
    separator: str = "\n"


_IM = ChatFormat("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
CHAT_FORMATS: dict[str, ChatFormat] = {
    "phi3_chat": ChatFormat("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"),
    "internlm2_chat": _IM,
    "qwen_chat": _IM,
}


@dataclass(frozen=True)
class Sa2VAOptions:
    """Settings of `format: sa2va`; the names of upstream's are kept where they mean the same.

    tokenizer:         folder or hub id of the language model's tokenizer; a sample needs one.
    special_tokens:    added to it where it lacks them, in this order: as the model that is trained does it.
    template:          chat format. Sa2VA-4B was trained with phi3_chat, Sa2VA-8B with internlm2_chat.
    image_size:        of a row of `pixel_values`, pixels; upstream's 448 makes 16 × 16 tokens a row.
    seg_size:          of `g_pixel_values`, pixels.
    pool:              prompt masks, of the original ones: "nearest" samples them (Osprey), "area" takes the cells of
                       which more than half is covered (Describe-Anything).
    dynamic_tiles:     cut an image into `min_tiles` to `max_tiles` tiles as InternVL does, with the whole image as last
                       row (`thumbnail`) where there are several. False: the whole image alone. Frames of a video are
                       never cut.
    max_length:        tokens; a longer sample is a DataError.
    regions_per_image: phrases or descriptions of a sample, at most; None: all.
    frames_per_sample, frame_choice, caption_choice, phrase_choice: as in `make_sample`.
    describe:          sources (first part of a record's key) whose captions are answers about marked regions, as they
                       are upstream. Of other sources, captions that single their region out are phrases to segment by.
    questions:         of a phrase; one is drawn. answers: to these; each holds one [SEG].
    describe_questions: of a region that comes without a question; one is drawn.

    Raises ConfigError for impossible values.
    """

    tokenizer: str | Path | None = None
    special_tokens: tuple[str, ...] = (SEG, PHRASE_OPEN, PHRASE_CLOSE, REGION_OPEN, REGION_CLOSE)
    template: Template = "phi3_chat"
    image_size: int = 448
    seg_size: int = 1024
    pool: Pool = "nearest"
    dynamic_tiles: bool = False
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    max_length: int = 8192
    regions_per_image: int | None = 5
    frames_per_sample: int = 5
    frame_choice: FrameChoice = "random"
    caption_choice: Choice = "random"
    phrase_choice: Choice = "random"
    describe: tuple[str, ...] = ("osprey", "describe_anything")
    questions: tuple[str, ...] = ("Please segment {phrase} in this image.",)
    answers: tuple[str, ...] = (f"Sure, {SEG}.",)
    describe_questions: tuple[str, ...] = ("Please give a short description of {region}.",)

    def __post_init__(self) -> None:
        check_options(self.seg_size, self.regions_per_image, self.caption_choice, self.phrase_choice)
        check_frames(self.frames_per_sample, self.frame_choice)
        if self.image_size < 28 or self.image_size % 28:
            raise ConfigError(f"sa2va.image_size={self.image_size}: needs a multiple of 28 (a token is 28 × 28 pixels)")
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ConfigError(f"sa2va.min_tiles={self.min_tiles}, max_tiles={self.max_tiles}: needs 1 ≤ min ≤ max")
        if self.max_length < 1:
            raise ConfigError(f"sa2va.max_length={self.max_length}: needs at least 1 token")
        if self.pool not in ("nearest", "area"):
            raise ConfigError(f'sa2va.pool={self.pool!r}: choose "nearest" or "area"')
        if self.template not in CHAT_FORMATS:
            raise ConfigError(f"sa2va.template={self.template!r}: choose one of {', '.join(CHAT_FORMATS)}")
        for name in ("special_tokens", "describe", "questions", "answers", "describe_questions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # from YAML they come as lists
        self._check_texts()

    def _check_texts(self) -> None:
        wanted = {"questions": "{phrase}", "answers": SEG, "describe_questions": "{region}"}
        for name, part in wanted.items():
            texts = getattr(self, name)
            if not texts or any(text.count(part) != 1 or "{" in text.replace(part, "") for text in texts):
                raise ConfigError(
                    f"sa2va.{name}={list(texts)}: needs one text or more, each with one {part}, no other {{"
                )

    @property
    def tokenizer_name(self) -> str:
        """Raises ConfigError where none was given."""
        if self.tokenizer is None:
            raise ConfigError(
                "sa2va.tokenizer is not set: give the folder or hub id of your language model's tokenizer"
            )
        return str(self.tokenizer)

    @property
    def grid(self) -> int:
        """Tokens along a side of a row of `pixel_values`."""
        return self.image_size // 28

    @property
    def chat(self) -> ChatFormat:
        """The template's texts."""
        return CHAT_FORMATS[self.template]


_DRAWS = ("regions_per_image", "frames_per_sample", "frame_choice", "caption_choice", "phrase_choice")


def drawn_as(options: Sa2VAOptions | None, samples: object, *, once: bool = True) -> Sa2VAOptions:
    """The options of a data module's samples: what is drawn is as `samples` (SampleOptions) has it.

    Raises ConfigError without a tokenizer, and (with `once`) for a choice that both give, and give otherwise.
    """
    options = Sa2VAOptions() if options is None else options
    assert options.tokenizer_name
    draws = {name: getattr(samples, name) for name in _DRAWS}
    for each in fields(Sa2VAOptions):
        own = getattr(options, each.name)
        if once and each.name in draws and own not in (each.default, draws[each.name]):
            wanted = f"data.{each.name}={draws[each.name]}"
            raise ConfigError(f"data.sa2va.{each.name}={own} and {wanted}: give it once, as data.{each.name}")
    return replace(options, **draws)
