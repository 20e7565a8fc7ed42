"""Images that several tests show in one prefix, and what a prompt with them is made of."""

from __future__ import annotations

from typing import Any

import torch

SIZES = [(16, 32), (32, 32), (16, 16), (32, 16)]  # 8, 16, 4 and 8 tokens of Qwen2-VL
GROUPS = [(0, 2, 3), (1,)]


def four_images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def boxes(*corners: tuple[int, int, int, int]) -> torch.Tensor:
    """Masks (R, 32, 32) of rectangles (top, left, bottom, right)."""
    mask1 = torch.zeros(len(corners), 32, 32)
    for mask, (top, left, bottom, right) in zip(mask1, corners, strict=True):
        mask[top:bottom, left:right] = 1
    return mask1


def ids_by_hand(vlm: Any, counts: list[int], words: str) -> list[int]:
    """Token ids of a prompt with images of so many tokens, from the text alone."""
    ids = vlm.tokenizer(vlm.conversation.prefix + vlm.conversation.frame * (len(counts) - 1)).input_ids
    slot, left = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.image_slot), iter(counts)
    return [id_ for token in ids for id_ in [token] * (next(left) if token == slot else 1)] + vlm.tokenizer(
        words
    ).input_ids
