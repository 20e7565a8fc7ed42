"""Lightning strategies of our own."""

from __future__ import annotations

from typing import Any


def is_sharded(trainer: Any) -> bool:
    """Whether the trainer shares weights out over its ranks; nothing is imported to tell."""
    return hasattr(trainer.strategy, "shard_weights")
