"""SAM2 (Hugging Face's `Sam2Model`) prompted by embeddings, maps, points and boxes.

Shapes: B images, R regions, D SAM2's width, n prompt tokens, E image-embedding side, M = 4·E low-res mask side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from maskcap.losses import TargetResize
from maskcap.models.region_prompt import resize_image


@dataclass(frozen=True)
class SegmenterFeatures:
    """An encoded batch of images: `embeddings` (B, D, E, E), `high` (B, D/8, 4E, 4E) and (B, D/4, 2E, 2E)."""

    embeddings: torch.Tensor
    high: tuple[torch.Tensor, torch.Tensor]


class Segmenter(nn.Module):
    """Images → features once, then any number of prompts → low-res mask logits.

    The model's own `get_image_embeddings` and `get_prompt_embeddings` run without gradient, so the parts are called
    one by one here. `dynamic_multimask_via_stability` is switched off: in evaluation it would swap in the multimask
    outputs, which nothing here trains. target_resize: how true masks come to the logits' size in the loss, see
    `losses.resize_targets`.
    """

    def __init__(self, model: Any, target_resize: TargetResize = "nearest") -> None:
        super().__init__()
        self.target_resize: TargetResize = target_resize
        self.model = model
        self.hidden_size: int = model.config.mask_decoder_config.hidden_size
        self.image_size: int = int(model.config.prompt_encoder_config.image_size)
        self.mask_size: int = model.prompt_encoder.mask_input_size[0]
        model.mask_decoder.dynamic_multimask_via_stability = False

    def encode(self, image1: torch.Tensor) -> SegmenterFeatures:
        """(B, 3, H, W) ImageNet-normalised (SAM2's own normalisation) → features. Encoded once for all regions."""
        pixel_values = resize_image(image1, self.image_size)
        maps = self.model.get_image_features(pixel_values, return_dict=True).fpn_hidden_states
        batch = image1.shape[0]
        sizes = self.model.backbone_feature_sizes
        high0, high1, low = (
            feature.permute(1, 2, 0).reshape(batch, -1, *size) for feature, size in zip(maps, sizes, strict=True)
        )
        low = low + self.model.no_memory_embedding.view(1, -1, 1, 1)
        return SegmenterFeatures(low, (high0, high1))

    def decode(
        self,
        features: SegmenterFeatures,
        region_image: torch.Tensor,
        sparse: torch.Tensor,
        dense_map: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Prompts → mask logits (R, M, M), float32.

        region_image int64 (R,); sparse (R, n, D): prompt embeddings; dense_map (R, m, m): logits of a coarse mask,
        resized to the native (M, M) mask prompt; None takes SAM2's learned "no mask".
        """
        sam = self.model
        regions = region_image.shape[0]
        side = features.embeddings.shape[-2:]
        if dense_map is None:
            dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(regions, -1, *side)
        else:
            prompt = F.interpolate(
                dense_map[:, None], (self.mask_size, self.mask_size), mode="bilinear", align_corners=False
            )
            dense = sam.prompt_encoder.mask_embed(prompt)
        # Sam2MaskDecoder adds the dense prompt per image, so every region is handed over as an image of its own.
        logits, *_ = sam.mask_decoder(
            image_embeddings=features.embeddings.index_select(0, region_image),
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(regions, -1, -1, -1),
            sparse_prompt_embeddings=sparse[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[high.index_select(0, region_image) for high in features.high],
        )
        return logits[:, 0, 0].float()

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Points (R, n, 2) as (x, y) shares of the image 0..1, labels int (R, n) 1 in, 0 out → (R, n + 1, D)."""
        pixels = (points * self.image_size)[:, None]
        return self.model.prompt_encoder._embed_points(pixels, labels[:, None], pad=True)[:, 0]

    def embed_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 4) as (x0, y0, x1, y1) shares of the image 0..1 → (R, 3, D)."""
        return self.model.prompt_encoder._embed_boxes((boxes * self.image_size)[:, None])[:, 0]
