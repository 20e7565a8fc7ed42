"""A conversation → token ids and labels, as xtuner's encoding makes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from maskcap.data.sa2va.options import Sa2VAOptions
from maskcap.errors import ConfigError, DataError
from maskcap.models.conversation import IMAGE_SLOT, SEG, Words, tokenise

IGNORED = -100  # label of a token that is not learned
IMAGE_OPEN, IMAGE_CLOSE = "<img>", "</img>"
Text: TypeAlias = "str | Words"  # a template's own, in which special tokens are special, or the data's


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, as pieces of text."""

    question: tuple[Text, ...]
    answer: tuple[Text, ...]


@dataclass(frozen=True)
class Encoded:
    """int64 (L,) each: the tokens, and what is learned of them (IGNORED elsewhere)."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def encode(exchanges: Sequence[Exchange], options: Sa2VAOptions, key: str) -> Encoded:
    """Token ids of the whole conversation; learned are the answers and the end of each, not the separator behind it.

    A beginning-of-text token stands first where the tokenizer has one (of Qwen's it is not used). Raises DataError
    naming `key` for more than `options.max_length` tokens: upstream cuts them off there, and with them the [SEG]s.
    """
    reader = load_tokenizer(options.tokenizer_name, options.special_tokens)
    chat = options.chat
    ids: list[int] = list(_begin(reader.tokenizer))
    labels: list[int] = [IGNORED] * len(ids)
    for exchange in exchanges:
        asked = _ids(reader, (chat.user, *exchange.question, chat.assistant))
        answered = _ids(reader, (*exchange.answer, chat.end))
        behind = _ids(reader, (chat.separator,))
        ids += asked + answered + behind
        labels += [IGNORED] * len(asked) + answered + [IGNORED] * len(behind)
    if len(ids) > options.max_length:
        raise DataError(
            f"{key}: the conversation has {len(ids)} tokens, more than max_length={options.max_length}. Raise it, or "
            "lower regions_per_image, frames_per_sample or max_tiles.",
            "sequence too long",
        )
    return Encoded(torch.tensor(ids), torch.tensor(labels))


def count(ids: torch.Tensor, token: str, options: Sa2VAOptions) -> int:
    """How often one of the vocabulary's tokens stands in `ids`."""
    tokenizer = load_tokenizer(options.tokenizer_name, options.special_tokens).tokenizer
    return int((ids == tokenizer.convert_tokens_to_ids(token)).sum())


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and its added tokens as text, which it puts together anew whenever it is asked."""

    tokenizer: Any
    added: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str, special_tokens: tuple[str, ...]) -> Reader:
    """The tokenizer of a folder or hub id with `special_tokens` added; each process reads it once.

    Raises ConfigError when there is none, or when it has no image tokens or no [SEG].
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"sa2va.tokenizer={name}: no tokenizer can be read there: {reason}") from error
    tokenizer.add_tokens(list(special_tokens), special_tokens=True)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (IMAGE_OPEN, IMAGE_SLOT, IMAGE_CLOSE, SEG) if token not in vocabulary]
    if missing:
        raise ConfigError(
            f"sa2va.tokenizer={name} has no token {', '.join(missing)}: take the tokenizer of an InternVL model, or "
            "add them to sa2va.special_tokens if your model does too"
        )
    return Reader(tokenizer, tuple(tokenizer.get_added_vocab()))


def _begin(tokenizer: Any) -> list[int]:
    begin = tokenizer.bos_token_id
    return [] if begin is None or type(tokenizer).__name__.lower().startswith("qwen") else [begin]


def _ids(reader: Reader, pieces: Sequence[Text]) -> list[int]:
    """Read as one text, as upstream reads it; piece by piece only where the data's words spell a special token."""
    words = [piece.text for piece in pieces if isinstance(piece, Words)]
    if any(token in text for token in reader.added for text in words):
        return tokenise(reader.tokenizer, [list(pieces)])[0]
    text = "".join(piece.text if isinstance(piece, Words) else piece for piece in pieces)
    return reader.tokenizer(text, add_special_tokens=False).input_ids
