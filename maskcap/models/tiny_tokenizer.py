"""A tokenizer that needs no download: whole words of the drawn scenes, bytes for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskcap.models.conversation import ADDED_TOKENS, IMAGE_SLOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = (
    "small large red green blue yellow purple orange circle square triangle cross at in the top left right center "
    "bottom describe segment what colour color shape size is this region answer question using a single word or phrase "
    "category does belong to of and on person man woman people object"
)
SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", IMAGE_SLOT, *ADDED_TOKENS)


def tiny_tokenizer(further: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """About 400 tokens: special tokens, 256 bytes, the words above with a space before them.

    A Unigram model over byte-level text: a listed word always costs less than its bytes, and nothing is unknown.
    further: more special tokens, after the others.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [(byte, -10.0) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary += [(f"Ġ{word}", -1.0) for word in dict.fromkeys(WORDS.split())]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, *further)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token that the vocabulary holds."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found
