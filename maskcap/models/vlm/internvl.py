"""InternVL (Hugging Face's `InternVLForConditionalGeneration`) behind the VLM interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from maskcap.errors import ConfigError
from maskcap.models.conversation import Conversation
from maskcap.models.region_prompt import resize_image
from maskcap.models.vlm.hugging_face import HuggingFaceVLM
from maskcap.models.vlm.interface import ImageTokens
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import TokenLayout, grid_layout


class InternVL(HuggingFaceVLM):
    """One 448 px view an image: 32×32 patches of 14 px, pixel shuffle to 16×16 = 256 tokens (tiny: smaller).

    model: `InternVLForConditionalGeneration`. tokenizer: its own; missing special tokens are added and the embeddings
    grow with them. image_size: side of the square that images are resized to, in pixels.
    """

    mrope = False
    selects_patches = False
    adds_positions = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_size: int,
        conversation: Conversation | None = None,
        antialias: bool = False,
    ) -> None:
        super().__init__(model, tokenizer, conversation or Conversation(), antialias)
        self.image_size = image_size
        self._check_geometry()

    @property
    def grid(self) -> int:
        """Tokens a side."""
        config = self.model.config
        return int(self.image_size // config.vision_config.patch_size[0] * config.downsample_ratio)

    def _check_geometry(self) -> None:
        patch = self.model.config.vision_config.patch_size[0]
        if self.image_size % patch or (self.image_size // patch) * self.model.config.downsample_ratio % 1:
            raise ConfigError(
                f"model.image_size={self.image_size} does not divide into patches of {patch} px that pixel shuffle "
                f"({self.model.config.downsample_ratio}) can merge; take a multiple of {2 * patch}."
            )

    def encode_image(self, image1: torch.Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> ImageTokens:
        """(B, 3, H, W) ImageNet-normalised (InternVL's own normalisation) → ImageTokens of grid² tokens.

        sizes: not used, as a view's aspect ratio is not kept.
        """
        features = self.encode_views(resize_image(image1, self.image_size, self.antialias)).flatten(1, 2)
        return ImageTokens(features, (grid_layout(self.grid, self.grid),) * image1.shape[0])

    def encode_views(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(V, 3, image_size, image_size), normalised → tokens (V, grid, grid, C)."""
        features = self.model.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        return features.view(features.shape[0], self.grid, self.grid, -1)

    def geometry(self, margins: tuple[int, int]) -> Geometry:
        """Of crops of image_size px; a token is as many patches a side as pixel shuffle merges."""
        config = self.model.config
        patch = config.vision_config.patch_size[0]
        return Geometry(self.image_size, patch, margins, round(1 / config.downsample_ratio))

    def views(self, layout: TokenLayout) -> float:
        """Views that the vision tower computed for an image of this layout."""
        return layout.views

    def image_positions(self, layout: TokenLayout) -> tuple[np.ndarray, int]:
        """One position after the other, as text: int64 (1, T), and T."""
        return np.arange(len(layout))[None], len(layout)
