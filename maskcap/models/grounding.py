"""The grounding map: where in the image the [SEG] state looks, on the grid of vision tokens.

Shapes: B images, R regions, T image tokens, C the language model's width, K the map's width.

Without it a model trained from scratch on the drawn scenes follows the place words only: with the mask losses alone,
another colour, size or shape word left the mask's IoU as it was, and another place word brought it to 0. The map is a
dot product of the phrase with every image token; it is supervised by the region's coverage of each cell and prompts
SAM2 as a coarse mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from maskcap.losses import at_least_float32

NOWHERE = -30.0  # a logit whose share of any softmax or sigmoid is nothing; finite, so that its gradients are zeros


WAVES = 4  # a sine and a cosine each of a token's row and column, of half a turn over the image, one turn, 2 and 4


def waves(boxes: torch.Tensor) -> torch.Tensor:
    """Sines and cosines (..., 16) of the centres of rectangles (..., 4), in shares of the image; see `WAVES`."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    angles = torch.cat([centre * (math.pi * 2**wave) for wave in range(WAVES)], dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class GroundingHead(nn.Module):
    """query = LN + Linear of the [SEG] state; key = LN + Linear of the projector's tokens + LN + Linear of the
    language model's states at these tokens; map = query · key × learned scale + bias.

    places: the keys also take a Linear of where each token looks. For models whose tokens do not say: Qwen2-VL's tower
    and language model turn queries and keys by position (rotary) and add nothing to a token itself. Without it the
    demo's masks passed over place words: with a wrong one they kept an IoU of .40 with the true object, with it .00.
    """

    def __init__(self, hidden_size: int, width: int = 128, places: bool = False) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.key_image = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.key_language = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.key_place = nn.Linear(4 * WAVES, width) if places else None
        # One number each, not scalars: FSDP2 shards none of these.
        self.scale = nn.Parameter(torch.tensor([1.0 / math.sqrt(width)]))
        self.bias = nn.Parameter(torch.tensor([-2.0]))  # a region covers few cells: start from "not here"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in (f"{prefix}scale", f"{prefix}bias"):  # scalars in older checkpoints
            if name in state_dict and not state_dict[name].ndim:
                state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def keys(
        self, features_BTC: torch.Tensor, states_BTC: torch.Tensor, boxes_BT4: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T, K) keys of projector tokens and of the language model's states at the same tokens.

        boxes: where each looks, as in `TokenLayout`; needed with `places`.
        """
        keys = self.key_image(features_BTC) + self.key_language(states_BTC)
        if self.key_place is None:
            return keys
        assert boxes_BT4 is not None
        return keys + self.key_place(waves(boxes_BT4).to(keys.dtype))

    def queries(self, seg_RC: torch.Tensor) -> torch.Tensor:
        """(R, K) queries of the [SEG] states."""
        return self.query(seg_RC)

    def forward(
        self,
        query_RK: torch.Tensor,
        key_BTK: torch.Tensor,
        region_image: torch.Tensor,
        valid_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map logits (R, T), float32; NOWHERE at the padding of images with fewer tokens (`valid` False)."""
        key_RTK = key_BTK.index_select(0, region_image)
        map_RT = at_least_float32(torch.einsum("rk,rtk->rt", query_RK, key_RTK)) * self.scale + self.bias
        return map_RT if valid_BT is None else map_RT.masked_fill(~valid_BT.index_select(0, region_image), NOWHERE)
