"""What maskcap asks of a vision-language model.

Shapes: B images, T image tokens, N rows, L their length, C the language model's width, V its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from maskcap.models.conversation import Conversation
from maskcap.vision_tokens.layout import TokenLayout

if TYPE_CHECKING:
    from maskcap.models.sequence import Prefix, Sequences


@dataclass(frozen=True)
class ImageTokens:
    """An encoded batch of images: `features` (B, T, C) as the language model reads them, and where each token looks."""

    features: torch.Tensor
    layout: TokenLayout


@dataclass(frozen=True)
class Generated:
    """Generated answers: their texts, and whether each was cut at the limit before it ended."""

    texts: list[str]
    truncated: list[bool]


class VLM(Protocol):
    """A vision-language model with its tokenizer; an `nn.Module` whose `hidden_size` is C and whose `language_model` is
    Hugging Face's decoder without its head."""

    tokenizer: Any
    conversation: Conversation
    hidden_size: int
    image_size: int
    language_model: Any

    def encode_image(self, image1: torch.Tensor) -> ImageTokens:
        """Images (B, 3, H, W), ImageNet-normalised, any size → their tokens."""
        ...

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings (..., C) of token ids (...)."""
        ...

    def hidden_states(self, sequences: Sequences) -> torch.Tensor:
        """Last hidden states (N, L, C), after the final norm."""
        ...

    def read_prefix(self, sequences: Sequences) -> Prefix:
        """The language model's reading of the images' prefixes, to generate from."""
        ...

    @property
    def head_weight(self) -> torch.Tensor:
        """The head's (V, C) matrix: a linear layer without bias."""
        ...

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits (..., V) of hidden states (..., C)."""
        ...

    def generate(self, sequences: Sequences, max_new_tokens: int) -> Generated:
        """Greedy continuation of left-padded rows (`build_continuations`), decoded without special tokens."""
        ...
