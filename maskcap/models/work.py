"""What one step did, in host numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Counted while a step is laid out; nothing is read from the device. What throughput and FLOPs are worked out from.
    Readings without gradient (the cycle's rollouts, its frozen copy's) are not in it, so that with them MFU is too low.

    vlm_images, sam_images: images through the vision tower (a share of one where patches were selected), through SAM2's
    encoder. tokens: real tokens that the language model read; slots: the same with padding (rows × their length);
    pairs: (query, key) pairs that the attention mask allows. answers: tokens whose vocabulary logits were computed.
    masks: regions decoded by SAM2.
    """

    vlm_images: float = 0
    sam_images: int = 0
    tokens: int = 0
    slots: int = 0
    pairs: int = 0
    answers: int = 0
    masks: int = 0
