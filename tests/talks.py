"""A batch of conversations by hand: a grounded answer, a question about two regions of a video, a text."""

from __future__ import annotations

from dataclasses import replace

import torch

from maskcap.data.batch import Batch
from maskcap.data.record import Phrase, Turn

GROUNDED = Turn("Describe it.", "a red circle and a cross", (Phrase(0, 12, 1), Phrase(17, 24, 0)))
ABOUT_TWO = (Turn("Is <region1> a cross?", "yes"), Turn("And <region2>?", "no"))


def talks_beside(tiny_batch: Batch) -> Batch:
    """Sample 0 (regions 0, 1) has a grounded answer, sample 1 (region 2 and a new one) a video with two further frames
    and a conversation of two turns, sample 2 a text without an image."""
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(5, 64, 64)
    masks[0, :30, 20:40] = 1
    for number, start in enumerate((5, 15, 25, 35)):
        masks[1 + number, start : start + 12, 10:50] = 1
    nothing: list[str | None] = [None] * 4
    return replace(
        tiny_batch,
        image1=torch.cat([tiny_batch.image1, torch.zeros(1, 3, 64, 64)]),
        mask1=torch.cat([tiny_batch.mask1, masks[:1]]),
        region_image=torch.tensor([0, 0, 1, 1]),
        caption=nothing,
        phrase=[None, None, "large green square", None],
        question=nothing,
        references=[()] * 4,
        phrases=[(), (), ("large green square",), ()],
        region_ids=["a", "b", "c", "d"],
        keys=["gcg/train/0", "clips/train/1", "talk/train/2"],
        sources=["gcg", "clips", "talk"],
        sizes=[(64, 64)] * 3,
        frames=torch.randn(2, 3, 64, 64, generator=generator),
        frame_owner=(1, 1),
        frame_masks=masks[1:],
        frame_mask_region=(2, 2, 3, 3),
        frame_mask_frame=(0, 1, 0, 1),
        turns=[(GROUNDED,), ABOUT_TWO, (Turn("Why?", "because"),)],
        empty=(False,) * 4,
        blank=(False, False, True),
        entries=["one", "two", "two"],
    )
