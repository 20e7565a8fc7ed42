"""SAM2 (Hugging Face's `Sam2Model`) prompted by embeddings, maps, points and boxes.

Shapes: B images, R regions, D SAM2's width, n prompt tokens, E image-embedding side, M = 4·E low-res mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskcap.errors import ConfigError
from maskcap.losses import TargetResize, at_least_float32
from maskcap.models.region_prompt import resize_image
from maskcap.models.transfer import take, to_device


@dataclass(frozen=True)
class SegmenterFeatures:
    """An encoded batch of images: `embeddings` (B, D, E, E), `high` (B, D/8, 4E, 4E) and (B, D/4, 2E, 2E).

    rows: where only some images of a batch were encoded, int64, the row of each image of the batch, -1 for the others.
    """

    embeddings: torch.Tensor
    high: tuple[torch.Tensor, torch.Tensor]
    rows: torch.Tensor | None = None

    def beside(self, other: SegmenterFeatures) -> SegmenterFeatures:
        """With those of further images of the same batch; both are of some of its images."""
        assert self.rows is not None and other.rows is not None
        rows = torch.where(other.rows < 0, self.rows, other.rows + self.embeddings.shape[0])
        high = torch.cat([self.high[0], other.high[0]]), torch.cat([self.high[1], other.high[1]])
        return SegmenterFeatures(torch.cat([self.embeddings, other.embeddings]), high, rows)


class Segmenter(nn.Module):
    """Images → features once, then any number of prompts → low-res mask logits.

    The model's own `get_image_embeddings` and `get_prompt_embeddings` run without gradient, so the parts are called
    one by one here. `dynamic_multimask_via_stability` is switched off: in evaluation it would swap in the multimask
    outputs, which nothing here trains. target_resize: how true masks come to the logits' size in the loss, see
    `losses.resize_targets`.

    decode_chunk: regions that the mask decoder takes at a time, None for all. The decoder copies the image's features
    for each region, twice (17 MB each, SAM2-large at 1024 px in float32), and keeps about 100 MB of activations. In
    chunks the copies last for one chunk, and in training each chunk is computed again in the backward. 32 regions of 4
    images on one core, all at once → 8 at a time: training 3961 → 1117 MB in the same time, evaluation 1755 → 472 MB
    and a fifth less time. Raises ConfigError when it is below 1.
    """

    def __init__(self, model: Any, target_resize: TargetResize = "nearest", decode_chunk: int | None = None) -> None:
        super().__init__()
        if decode_chunk is not None and decode_chunk < 1:
            raise ConfigError(
                f"segmenter.decode_chunk={decode_chunk}: take 1 or more regions at a time, or null for all"
            )
        self.target_resize: TargetResize = target_resize
        self.decode_chunk = decode_chunk
        self.model = model
        self.hidden_size: int = model.config.mask_decoder_config.hidden_size
        self.image_size: int = int(model.config.prompt_encoder_config.image_size)
        self.mask_size: int = model.prompt_encoder.mask_input_size[0]
        model.mask_decoder.dynamic_multimask_via_stability = False
        model.vision_encoder.neck.position_encoding = _NoPositions()

    def encode(self, image1: torch.Tensor, wanted: Sequence[int] | None = None) -> SegmenterFeatures:
        """(B, 3, H, W) ImageNet-normalised (SAM2's own normalisation) → features. Encoded once for all regions.

        wanted: numbers of the images to encode, ascending; None: all. The others' regions cannot be decoded.

        An encoder whose parameters are all frozen runs without autograd; `no_memory_embedding` and the mask decoder's
        convolutions of the high-resolution maps, which come after it, keep theirs. If anything in the encoder trains
        (its neck, say), autograd itself leaves out what lies before.
        """
        if wanted is not None and list(wanted) != list(range(len(image1))):
            rows = torch.full((len(image1),), -1)
            rows[list(wanted)] = torch.arange(len(wanted))
            features = self.encode(take(image1, wanted))
            return SegmenterFeatures(features.embeddings, features.high, to_device([rows], image1.device)[0])
        sam = self.model
        trains = image1.requires_grad or any(weight.requires_grad for weight in sam.vision_encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            pixel_values = resize_image(image1, self.image_size)
            high0, high1, low = sam.vision_encoder(pixel_values, return_dict=True).fpn_hidden_states
        high = sam.mask_decoder.conv_s0(high0), sam.mask_decoder.conv_s1(high1)
        return SegmenterFeatures(low + sam.no_memory_embedding.view(1, -1, 1, 1), high)

    def decode(
        self,
        features: SegmenterFeatures,
        region_image: torch.Tensor,
        sparse: torch.Tensor,
        dense_map: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Prompts → mask logits (R, M, M), float32, `decode_chunk` regions at a time.

        region_image int64 (R,); sparse (R, n, D): prompt embeddings; dense_map (R, m, m): logits of a coarse mask,
        resized to the native (M, M) mask prompt; None takes SAM2's learned "no mask".
        """
        if features.rows is not None:
            region_image = features.rows.index_select(0, region_image)
        rows = self.decode_chunk or region_image.shape[0]
        if region_image.shape[0] <= rows:
            return self._decode(features, region_image, sparse, dense_map)
        logits = []
        for start in range(0, region_image.shape[0], rows):
            part = slice(start, start + rows)
            inputs = features, region_image[part], sparse[part], None if dense_map is None else dense_map[part]
            if torch.is_grad_enabled():  # nothing in the decoder is random: no generator's state to keep
                logits.append(checkpoint(self._decode, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                logits.append(self._decode(*inputs))
        return torch.cat(logits)

    def _decode(
        self,
        features: SegmenterFeatures,
        region_image: torch.Tensor,
        sparse: torch.Tensor,
        dense_map: torch.Tensor | None,
    ) -> torch.Tensor:
        sam = self.model
        if dense_map is None:
            dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            prompt = F.interpolate(
                dense_map[:, None], (self.mask_size, self.mask_size), mode="bilinear", align_corners=False
            )
            dense = sam.prompt_encoder.mask_embed(prompt)
        # Sam2MaskDecoder adds the dense prompt per image, so every region is handed over as an image of its own; the
        # dense "no mask" and the positions are the same for all of them, and broadcast.
        logits, *_ = sam.mask_decoder(
            image_embeddings=features.embeddings.index_select(0, region_image),
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[high.index_select(0, region_image) for high in features.high],
        )
        return at_least_float32(logits[:, 0, 0])

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Points (R, n, 2) as (x, y) shares of the image 0..1, labels int (R, n) 1 in, 0 out → (R, n + 1, D)."""
        pixels = (points * self.image_size)[:, None]
        return self.model.prompt_encoder._embed_points(pixels, labels[:, None], pad=True)[:, 0]

    def embed_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 4) as (x0, y0, x1, y1) shares of the image 0..1 → (R, 3, D)."""
        return self.model.prompt_encoder._embed_boxes((boxes * self.image_size)[:, None])[:, 0]


class _NoPositions(nn.Module):
    """Stands for the neck's sine positions, which only SAM2's video memory reads.

    They are computed at each forward, and cost half of a tiny encoder's time (37 of 76 ms for 8 images of 128 px).
    """

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """A zero that broadcasts to `shape`."""
        return torch.zeros((1,) * len(shape), device=device, dtype=dtype)
