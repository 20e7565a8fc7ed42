"""The tokenizer of `format: sa2va`, read once with its added tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from maskcap.data.sa2va import Sa2VAOptions
from maskcap.data.sa2va.tokens import load_tokenizer
from maskcap.models.conversation import Conversation
from tests.data.sa2va.conftest import SPECIAL


def test_the_added_tokens_are_kept_with_the_tokenizer(tokenizer_folder: Path):
    plain: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    reader = load_tokenizer(str(tokenizer_folder), tuple(SPECIAL))
    assert set(reader.added) == {*plain.get_added_vocab(), *SPECIAL} and "<|im_end|>" in reader.added
    assert load_tokenizer(str(tokenizer_folder), tuple(SPECIAL)) is reader


def test_the_special_tokens_are_those_of_the_model():
    assert list(Sa2VAOptions().special_tokens) == SPECIAL
    assert set(SPECIAL) <= set(Conversation().added_tokens)
