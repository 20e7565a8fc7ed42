"""What a sample draws of its record: regions, their texts, a video's frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from maskcap.data.record import Record, Region
from maskcap.data.record_rules import bad_texts, raise_first
from maskcap.data.turns import grounded_regions, named_regions
from maskcap.errors import ConfigError

Choice = Literal["first", "random"]
FrameChoice = Literal["middle", "random"]


@dataclass(frozen=True)
class Texts:
    """What is said of one region in a sample; see the fields of Sample."""

    caption: str | None = None
    phrase: str | None = None
    question: str | None = None
    references: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


def draw_texts(
    key: str, region: Region, rng: np.random.Generator, caption_choice: Choice, phrase_choice: Choice
) -> Texts:
    """What is said of one region in this sample; caption and phrase are drawn independently."""
    captions = region.captions
    if not captions:
        return Texts()
    raise_first(bad_texts(region, key))
    questions = region.questions or (None,) * len(captions)
    chosen = _draw_one(len(captions), rng, caption_choice)
    if caption_choice == "first":
        references = (captions[chosen],)
    else:
        # An answer to another question of the same region would be a wrong answer to this one.
        references = tuple(c for c, q in zip(captions, questions, strict=True) if q == questions[chosen])
    drawn = _draw_one(len(captions), rng, phrase_choice)
    if not region.referring:
        return Texts(captions[chosen], None, questions[chosen], references)
    phrases = captions[:1] if phrase_choice == "first" else captions
    return Texts(captions[chosen], captions[drawn], questions[chosen], references, phrases)


def _draw_one(count: int, rng: np.random.Generator, choice: Choice) -> int:
    return int(rng.integers(count)) if choice == "random" else 0


def texts_of(record: Record, texts: Sequence[Texts], empty: Sequence[bool]) -> dict[str, Any]:
    """The texts' fields of a Sample. What is not to be seen is not described."""
    if not any(region.captions for region in record.regions1):
        return dict.fromkeys(("caption", "phrase", "question", "references", "phrases"))
    told = [Texts() if gone else text for text, gone in zip(texts, empty, strict=True)]
    return {
        "caption": [text.caption for text in told],
        "phrase": [text.phrase for text in texts],
        "question": [text.question for text in told],
        "references": [text.references for text in told],
        "phrases": [text.phrases for text in texts],
    }


def draw_regions(record: Record, wanted: int | None, rng: np.random.Generator) -> list[int]:
    """Numbers of `wanted` of its regions (None: all), ascending; with turns, see `make_sample`."""
    if not record.turns:
        return _draw(list(range(len(record.regions1))), wanted, rng)
    spoken = {*named_regions(record.turns), *grounded_regions(record.turns)}
    others = [i for i, region in enumerate(record.regions1) if region.captions and i not in spoken]
    return sorted({*spoken, *_draw(others, wanted, rng)})


def _draw(regions: list[int], wanted: int | None, rng: np.random.Generator) -> list[int]:
    if wanted is None or wanted >= len(regions):
        return regions
    return sorted(regions[int(i)] for i in rng.choice(len(regions), size=wanted, replace=False))


def draw_frames(count: int, wanted: int, rng: np.random.Generator, choice: FrameChoice) -> list[int]:
    """`wanted` of a video's frames 0 … count − 1, ascending, one from each of as many equal spans; all if no more."""
    if wanted >= count:
        return list(range(count))
    ends = [span * count // wanted for span in range(wanted + 1)]
    spans = zip(ends[:-1], ends[1:], strict=True)
    return [(a + b) // 2 if choice == "middle" else int(rng.integers(a, b)) for a, b in spans]


def check_options(image_size: int, regions_per_image: int | None, caption_choice: str, phrase_choice: str) -> None:
    """Raise ConfigError for an option that `make_sample` cannot honour."""
    if image_size < 1:
        raise ConfigError(f"image_size={image_size}: needs at least 1 pixel")
    if regions_per_image is not None and regions_per_image < 1:
        raise ConfigError(f"regions_per_image={regions_per_image}: needs at least 1, or None for every region")
    for name, value in (("caption_choice", caption_choice), ("phrase_choice", phrase_choice)):
        if value not in ("first", "random"):
            raise ConfigError(f'{name}={value!r}: choose "first" or "random"')


def check_frames(frames_per_sample: int, frame_choice: str) -> None:
    """Raise ConfigError for a choice of frames that `make_sample` cannot honour."""
    if frames_per_sample < 1:
        raise ConfigError(f"frames_per_sample={frames_per_sample}: needs at least 1")
    if frame_choice not in ("middle", "random"):
        raise ConfigError(f'frame_choice={frame_choice!r}: choose "middle" or "random"')
