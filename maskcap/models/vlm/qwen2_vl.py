"""Qwen2-VL and Qwen2.5-VL (Hugging Face's classes) behind the VLM interface, with entropy-chosen patches.

Shapes: B images, H × W px of an image, h × w its merge blocks, K cells (tokens) of all images, m patches a side of a
block, C the language model's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskcap.errors import ConfigError
from maskcap.models.conversation import Conversation, qwen_conversation
from maskcap.models.transfer import to_device
from maskcap.models.vlm.adaptive_processor import AdaptiveQwen2VLImageProcessor, AdaptiveQwen2VLProcessor
from maskcap.models.vlm.cell_positions import mrope_positions
from maskcap.models.vlm.hugging_face import HuggingFaceVLM
from maskcap.models.vlm.interface import ImageTokens, place_tokens
from maskcap.models.vlm.packed import guard_packed_grids
from maskcap.models.vlm.packed_images import tower_inputs
from maskcap.models.vlm.patch_pixels import choose_cells, fitted, gather_blocks
from maskcap.vision_tokens.block_resize import BlockResize
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import TokenLayout, grid_layout, patches_layout

if TYPE_CHECKING:
    from maskcap.vision_tokens.settings import Patches

__all__ = ["AdaptiveQwen2VLImageProcessor", "AdaptiveQwen2VLProcessor", "Qwen2VL"]


_PLACES = {"image_position_ids", "image_window_index"}
_LENGTHS = {"image_cu_seqlens", "image_cu_window_seqlens"}


class Qwen2VL(HuggingFaceVLM):
    """One view an image at its own aspect ratio, a token for each merge block of 2 × 2 patches (28 px).

    model: `Qwen2VLForConditionalGeneration` or `Qwen2_5_VLForConditionalGeneration`. tokenizer: its own; missing
    special tokens are added and the embeddings grow with them. min_pixels, max_pixels: an image is resized to sides
    that are multiples of a block and to an area between them, as the stock processor does. Raises ConfigError for
    limits that contradict, or allow less than a block.
    """

    mrope = True
    selects_patches = True
    adds_positions = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        min_pixels: int = 56 * 56,
        max_pixels: int = 28 * 28 * 1280,
        conversation: Conversation | None = None,
        antialias: bool = True,
    ) -> None:
        super().__init__(model, tokenizer, conversation or qwen_conversation(), antialias)
        self.resize = BlockResize(self.block, min_pixels, max_pixels)
        guard_packed_grids(model)

    @property
    def block(self) -> int:
        """Pixels a side of a merge block, which is one token."""
        config = self.model.config.vision_config
        return config.patch_size * config.spatial_merge_size

    @property
    def image_size(self) -> int:
        """Side in pixels of the largest square view that `max_pixels` allows."""
        return math.isqrt(self.resize.max_pixels) // self.block * self.block

    def encode_image(
        self,
        image1: torch.Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        patches: Patches | None = None,
    ) -> ImageTokens:
        """(B, 3, H, W) ImageNet-normalised → ImageTokens, of as many tokens as each image's size and `patches` ask for.

        sizes: the images' own (height, width), whose aspect ratios their views get back; None: (H, W). patches: which
        blocks are merged; None: none. Choosing waits for the device once, for all images. Raises DataError for an image
        over 200 times as long as wide.
        """
        config = self.model.config.vision_config
        height, width = image1.shape[-2:]
        sizes = [(height, width)] * image1.shape[0] if sizes is None else sizes
        pixels = fitted(image1, sizes, self.resize, self.antialias)
        grids = [(each.shape[1] // self.block, each.shape[2] // self.block) for each in pixels]
        if patches is None:
            layouts = [grid_layout(*grid) for grid in grids]
        else:
            chosen = choose_cells(pixels, self.block, patches)
            layouts = [patches_layout(cells, *grid) for cells, grid in zip(chosen, grids, strict=True)]
        cells = [layout.cells[0] for layout in layouts]
        blocks = gather_blocks(pixels, cells, config.patch_size, config.spatial_merge_size)
        tokens = self._see(blocks, cells)
        longest = max(map(len, cells))
        features = torch.stack([torch.nn.functional.pad(each, (0, 0, 0, longest - len(each))) for each in tokens])
        return place_tokens(features, tuple(layouts))

    def encode_views(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(V, 3, image_size, image_size), ImageNet-normalised → tokens (V, side, side, C)."""
        return self.encode_image(pixel_values).features.unflatten(1, (self.image_size // self.block, -1))

    def _see(self, blocks: torch.Tensor, cells: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        """Tokens (K, C) of each image; blocks (ΣK · m², pixels of a patch), in the cells' order."""
        config = self.model.config.vision_config
        given = tower_inputs(cells, config)
        ends = np.cumsum([0, *(config.spatial_merge_size**2 * len(each) for each in cells)])
        given["image_cu_seqlens"] = torch.from_numpy(ends).int()
        # lengths stay on the host, where the library reads them; FlashAttention's kernels read them on the device
        flash = "flash" in config._attn_implementation
        for name in given.keys() & (_PLACES | _LENGTHS if flash else _PLACES):
            (given[name],) = to_device([given[name]], blocks.device)
        return self.model.model.get_image_features(pixel_values=blocks, return_dict=True, **given).pooler_output

    def geometry(self, margins: tuple[int, int]) -> Geometry:
        """Of crops of image_size px; a token is a merge block. Raises ConfigError where no square meets the limits."""
        side, limits = self.image_size, self.resize
        if limits.size(side, side) != (side, side):
            raise ConfigError(
                f"model.min_pixels={limits.min_pixels} model.max_pixels={limits.max_pixels}: crops are squares of "
                f"{self.block} px blocks, and none has so many pixels; {side}² = {side**2} are too few"
            )
        config = self.model.config.vision_config
        return Geometry(self.image_size, config.patch_size, margins, config.spatial_merge_size)

    def views(self, layout: TokenLayout) -> float:
        """Square views' worth of work that the vision tower did for an image: by its tokens, which counts the
        attention of a shorter sequence too high."""
        side = self.image_size // self.block
        return layout.views if layout.tiling is not None else len(layout) / side**2

    def image_positions(self, layout: TokenLayout) -> tuple[np.ndarray, int]:
        """M-RoPE positions int64 (3, T) of the tokens from the image's first on, and how many positions it takes.

        Each of the layout's grids begins after the longer side of the one before, as several images in a row do.
        """
        parts, start = [], 0
        for cells in layout.cells:
            parts.append(mrope_positions(cells) + start)
            start += int((cells[:, :2] + 2 ** cells[:, 2:]).max())
        return np.concatenate(parts, axis=1), start
