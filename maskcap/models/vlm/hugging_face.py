"""The language side that Hugging Face's vision-language models share: tokens, reading, generation.

Shapes: N rows, L their length, B images, T image tokens, C the language model's width, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from maskcap.errors import ConfigError
from maskcap.models.conversation import Conversation
from maskcap.models.sequence import Prefix, Sequences
from maskcap.models.tree_attention import TreeMask, plain_attention
from maskcap.models.vlm.interface import Generated, TokenRule


class HuggingFaceVLM(nn.Module):
    """A `…ForConditionalGeneration` whose `model.language_model` is the decoder without its head, and its tokenizer.

    Special tokens that the tokenizer lacks are added here and the embeddings grow with them. Raises ConfigError when it
    lacks the image slot, without which it is the tokenizer of another kind of model.
    """

    def __init__(self, model: Any, tokenizer: Any, conversation: Conversation, antialias: bool) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.conversation = conversation
        self.antialias = antialias
        self.hidden_size: int = model.config.text_config.hidden_size
        self._add_tokens()

    @property
    def language_model(self) -> Any:
        """The decoder without its head."""
        return self.model.model.language_model

    def _add_tokens(self) -> None:
        from tokenizers import AddedToken

        slot = self.conversation.image_slot
        if slot not in self.tokenizer.get_vocab():
            raise ConfigError(f"the tokenizer has no {slot} token: is this a folder of {type(self.model).__name__}?")
        names = slot, *self.conversation.added_tokens
        # also those that it has: only what it calls special is kept out of the data's words (conversation.Words)
        control = [AddedToken(token, special=True, normalized=False) for token in names]
        self.tokenizer.add_tokens(control, special_tokens=True)
        if len(self.tokenizer) > self.model.get_input_embeddings().num_embeddings:
            self.model.resize_token_embeddings(len(self.tokenizer))

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings (..., C)."""
        return self.model.get_input_embeddings()(input_ids)

    def hidden_states(self, sequences: Sequences) -> torch.Tensor:
        """Last hidden states (N, L, C) of the language model."""
        attention = sequences.attention
        if isinstance(attention, TreeMask):
            implementation = self.language_model.config._attn_implementation
            attention = attention.for_model(implementation, sequences.inputs_embeds.dtype)
        return self.language_model(
            inputs_embeds=sequences.inputs_embeds,
            attention_mask=attention,
            position_ids=sequences.position_ids,
            use_cache=False,
        ).last_hidden_state

    def read_prefix(self, sequences: Sequences) -> Prefix:
        """Run the prefixes, and keep what segments attend to."""
        mask = sequences.attention
        assert isinstance(mask, torch.Tensor)
        with keeping_caches(self.language_model):
            output = self.language_model(
                inputs_embeds=sequences.inputs_embeds,
                attention_mask=mask,
                position_ids=sequences.position_ids,
                use_cache=True,
            )
        places_BT, states = sequences.image_positions, output.last_hidden_state.flatten(0, 1)
        states = states.index_select(0, places_BT.flatten()).view(*places_BT.shape, -1)
        layers = output.past_key_values.layers
        return Prefix([layer.keys for layer in layers], [layer.values for layer in layers], states, mask)

    @property
    def embedding_weight(self) -> torch.Tensor:
        """The input embeddings' (V, C) table."""
        return self.model.get_input_embeddings().weight

    @property
    def head_weight(self) -> torch.Tensor:
        """The head's (V, C) matrix; with tied embeddings it is theirs."""
        return self.model.get_output_embeddings().weight

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits (..., V)."""
        return self.model.get_output_embeddings()(states)

    @torch.no_grad()
    def generate(self, sequences: Sequences, max_new_tokens: int, rule: TokenRule | None = None) -> Generated:
        """Greedy continuation of left-padded rows; stops at the end-of-turn token. Waits for the device.

        rule: what becomes of the logits before the largest is taken, see `TokenRule`.
        """
        embeds, mask, cache = sequences.inputs_embeds, sequences.attention, None
        assert isinstance(mask, torch.Tensor)
        if sequences.prefix is not None and sequences.of_prefixes is not None:
            cache = _fork(sequences.prefix, sequences.of_prefixes)
            rows, length = mask.shape[0], sequences.prefix.length
            mask = torch.cat([sequences.prefix.mask.index_select(0, sequences.of_prefixes), mask], dim=1)
            # the library wants the whole sequence and passes over what the cache holds
            embeds = torch.cat([embeds.new_zeros(rows, length, embeds.shape[2]), embeds], dim=1)
        end = self.tokenizer.convert_tokens_to_ids(self.conversation.end)
        with plain_attention(self.language_model), keeping_caches(self.language_model), plain_generation(self.model):
            ids = self.model.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=sequences.position_ids,
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=end,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=None if rule is None else [rule],
            )
        found = [row[: row.index(end) + 1] if end in row else row for row in ids.tolist()]
        texts = [text.strip() for text in self.tokenizer.batch_decode(found, skip_special_tokens=True)]
        said = [row[:-1] if row[-1:] == [end] else row for row in found]
        marked = [text.strip() for text in self.tokenizer.batch_decode(said)]
        return Generated(texts, [end not in row for row in found], found, marked)


@contextmanager
def keeping_caches(language_model: nn.Module) -> Iterator[None]:
    """Without activation checkpointing for a while: the library drops the cache of a block that trains with it."""
    checkpointed = [block for block in language_model.modules() if getattr(block, "gradient_checkpointing", False)]
    for block in checkpointed:
        block.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for block in checkpointed:
            block.gradient_checkpointing = True  # type: ignore[assignment]


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Without the checkpoint's own generation settings for a while: a repetition penalty, say, which `generate` takes
    from there even beside a configuration of the call's, would choose other tokens than the logits do."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _fork(prefix: Prefix, of_prefixes: torch.Tensor) -> Any:
    """A cache whose row n is prefix of_prefixes[n]."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        cache.update(keys.index_select(0, of_prefixes), values.index_select(0, of_prefixes), layer)
    return cache
