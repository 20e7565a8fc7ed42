"""What maskcap asks of a vision-language model.

Shapes: B images, T image tokens, N rows, L their length, C the language model's width, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.models.conversation import Conversation
from maskcap.models.transfer import take, to_device
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import TokenLayout

if TYPE_CHECKING:
    from maskcap.models.sequence import Prefix, Sequences

# new ids (N, t) and logits (N, V) of the next token → logits (N, V)
TokenRule: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Groups: TypeAlias = "tuple[tuple[int, ...], ...]"


@dataclass(frozen=True)
class ImageTokens:
    """An encoded batch of images, as the language model reads them, and where each token looks.

    features (B, T, C): of images with fewer tokens than others the last places are padding, which nothing reads.
    layouts: of the B images. boxes float32 (B, T, 4), as in `TokenLayout` and empty for padding, and valid bool (B, T),
    False for padding: on the device, and None where all images have one and the same grid. geometry: of crops.
    groups: the images that each prefix shows, by their numbers; None: each alone.
    """

    features: torch.Tensor
    layouts: tuple[TokenLayout, ...]
    boxes: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    geometry: Geometry | None = None
    groups: Groups | None = None

    @property
    def shown(self) -> Groups:
        """The images of each prefix."""
        return tuple((image,) for image in range(len(self.layouts))) if self.groups is None else self.groups

    def detached(self, images: Sequence[int]) -> ImageTokens:
        """Those of some images, by their numbers, without gradient; each is then alone in its prefix."""
        layouts = tuple(self.layouts[image] for image in images)
        longest = max(map(len, layouts))

        features = take(self.features.detach(), images)[:, :longest]
        if self.boxes is None or self.valid is None:
            return ImageTokens(features, layouts, geometry=self.geometry)
        boxes, valid = take(self.boxes, images)[:, :longest], take(self.valid, images)[:, :longest]
        return ImageTokens(features, layouts, boxes, valid, self.geometry)

    @property
    def counts(self) -> list[int]:
        """Tokens of each image."""
        return [len(layout) for layout in self.layouts]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) where the tokens of every image are one grid over all of it, else None."""
        return self.layouts[0].grid if self.boxes is None else None


def place_tokens(
    features: torch.Tensor, layouts: tuple[TokenLayout, ...], geometry: Geometry | None = None
) -> ImageTokens:
    """features (B, T, C) of images with these layouts, padded to the longest, with their rectangles on the device; of
    one square grid, which pools to it, without them."""
    grid = layouts[0].grid
    if grid is not None and grid[0] == grid[1] and all(layout is layouts[0] for layout in layouts):
        return ImageTokens(features, layouts, geometry=geometry)
    longest = features.shape[1]
    boxes = torch.stack([F.pad(layout.boxes, (0, 0, 0, longest - len(layout))) for layout in layouts])
    (boxes,) = to_device([boxes], features.device)
    counts = torch.tensor([len(layout) for layout in layouts])
    (counts,) = to_device([counts], features.device)
    valid = torch.arange(longest, device=features.device) < counts[:, None]
    return ImageTokens(features, layouts, boxes, valid, geometry)


@dataclass(frozen=True)
class Generated:
    """Generated answers: their texts, whether each was cut at the limit before it ended, their token ids, the end among
    them where there is one, and their texts with special tokens ([SEG], `<p>`), but for the end."""

    texts: list[str]
    truncated: list[bool]
    ids: list[list[int]] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)


class VLM(Protocol):
    """A vision-language model with its tokenizer; an `nn.Module` whose `hidden_size` is C and whose `language_model` is
    Hugging Face's decoder without its head. mrope: whether it has positions of three axes. selects_patches: whether
    `encode_image` also takes `patches`, the settings of entropy-chosen ones. adds_positions: whether positions are
    added to image tokens, so that a token says where it looks; rotary positions only turn queries and keys."""

    tokenizer: Any
    conversation: Conversation
    hidden_size: int
    image_size: int
    antialias: bool
    language_model: Any
    mrope: bool
    selects_patches: bool
    adds_positions: bool

    def encode_image(self, image1: torch.Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> ImageTokens:
        """Images (B, 3, H, W), ImageNet-normalised, any size → their tokens, of one view each; sizes: their own."""
        ...

    def encode_views(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Views (V, 3, image_size, image_size), normalised → their tokens (V, rows, columns, C)."""
        ...

    def geometry(self, margins: tuple[int, int]) -> Geometry:
        """Of crops that are such views; margins in patches. Raises ConfigError for margins that do not divide."""
        ...

    def views(self, layout: TokenLayout) -> float:
        """Views' worth of work that the vision tower did for an image of this layout."""
        ...

    def image_positions(self, layout: TokenLayout) -> tuple[np.ndarray, int]:
        """Positions of an image's tokens from its first on, int64 (1, T), or (3, T) with M-RoPE, and how many it takes
        before the text goes on."""
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
    def embedding_weight(self) -> torch.Tensor:
        """The input embeddings' (V, C) table."""
        ...

    @property
    def head_weight(self) -> torch.Tensor:
        """The head's (V, C) matrix: a linear layer without bias."""
        ...

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits (..., V) of hidden states (..., C)."""
        ...

    def generate(self, sequences: Sequences, max_new_tokens: int, rule: TokenRule | None = None) -> Generated:
        """Greedy continuation of left-padded rows (`build_continuations`), decoded without special tokens; rule:
        what becomes of the logits before the largest is taken."""
        ...
