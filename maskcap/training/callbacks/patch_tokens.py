"""How many tokens a run's images cost where that depends on the picture: entropy-chosen patches, in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from maskcap.data.batch import Batch
from maskcap.training.callbacks.image_counts import ImageCounts
from maskcap.vision_tokens.settings import Patches

log = logging.getLogger(__name__)

Counted = Counter[tuple[int, int]]  # (tokens, all cells of the grid) → images


class PatchTokens(ImageCounts):
    """Logs a line at the end of each validation and of a fit: the images' mean tokens, their range and their share of
    all, of those that were encoded for the language model (images of which no loop learns are not). Without
    `vision_tokens=patches`, and where there were none, it says nothing.
    """

    def applies(self, module: Any) -> bool:
        """With patches."""
        return isinstance(getattr(getattr(module, "model", None), "vision_tokens", None), Patches)

    def of_images(self, module: Any, batch: Batch, images: Sequence[int]) -> Iterable[tuple[int, int]]:
        """Each image's tokens, and those of its whole grid."""
        return module.last_tokens

    def say(self, what: str, counted: Counted, module: Any) -> None:
        """The line."""
        log.info("%s", summary(what, counted, module.model.vision_tokens))


def summary(what: str, counted: Counted, settings: Patches) -> str:
    """`validation: 200 images, mean 127.0 of 256.0 tokens (49.6%), 127 … 127; budget, alpha=0.5`."""
    images = counted.total()
    tokens, cells = (sum(cost[part] * count for cost, count in counted.items()) for part in (0, 1))
    least, most = (pick(cost[0] for cost in counted) for pick in (min, max))
    how = settings.method if settings.method == "v1" else f"{settings.method}, alpha={settings.alpha:g}"
    mean = f"mean {tokens / images:.1f} of {cells / images:.1f} tokens ({tokens / cells:.1%})"
    return f"{what}: {images} images, {mean}, {least} … {most}; {how}"
