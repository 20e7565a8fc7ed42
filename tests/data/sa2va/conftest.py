"""A tokenizer on disk, and what a conversation's ids and labels should be, spelled out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from maskcap.data.record import Record, Region
from maskcap.data.rle import empty_rle
from maskcap.data.sa2va import Sa2VAOptions
from maskcap.models.tiny_tokenizer import tiny_tokenizer
from tests.data.sa2va.drawn import BOXES, box, rle

SPECIAL = ["[SEG]", "<p>", "</p>", "<vp>", "</vp>"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer as a user has his: a folder of Hugging Face's. It has no <p> and no </p>."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def options(tokenizer_folder: Path) -> Callable[..., Sa2VAOptions]:
    """options(**changes) with the tokenizer above, and Qwen's chat format, whose special tokens it has."""
    return lambda **changes: Sa2VAOptions(tokenizer_folder, **({"template": "qwen_chat"} | changes))


@pytest.fixture
def spelled(tokenizer_folder: Path) -> Callable[[Sequence[tuple[str, str]]], tuple[list[int], list[int]]]:
    """spelled([(question, answer), …]) → input_ids, labels: every text read whole by the tokenizer itself."""
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)

    def spell(turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """Both lists of the conversation."""
        ids: list[int] = []
        labels: list[int] = []
        for question, answer in turns:
            asked = tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").input_ids
            answered = tokenizer(f"{answer}<|im_end|>").input_ids
            behind = tokenizer("\n").input_ids
            ids += asked + answered + behind
            labels += [-100] * len(asked) + answered + [-100] * len(behind)
        return ids, labels

    return spell


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that always starts alike."""
    return np.random.default_rng(5)


@pytest.fixture
def scene(image_ref) -> Record:
    """Three boxes in a landscape image, each with one caption."""
    regions = tuple(Region(rle(mask), (f"box {i}.",), f"r{i}") for i, mask in enumerate(BOXES))
    return Record("scenes/train/1", image_ref("scene", 48, 64), regions)


@pytest.fixture
def video(image_ref) -> Record:
    """Six frames; one box that wanders, one that is gone after the first two."""
    frames = tuple(image_ref(f"frame{i}", 40, 60, seed=i) for i in range(6))
    wanders = tuple(rle(box(40, 60, 4 * i, 5 * i)) for i in range(6))
    leaves = (rle(box(40, 60, 0, 40)),) * 2 + (empty_rle(40, 60),) * 4
    regions = (
        Region(wanders[0], ("the one that wanders",), "1", may_be_empty=True, frame_masks=wanders),
        Region(leaves[0], ("which one leaves?",), "2", may_be_empty=True, frame_masks=leaves),
    )
    return Record("revos/train/v", frames[0], regions, frames=frames)
