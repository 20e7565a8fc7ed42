"""How many tokens a run's images cost where that depends on the picture: entropy-chosen patches, in the log."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import lightning.pytorch as pl

from maskcap.data.batch import Batch
from maskcap.training.callbacks.vision_tokens import of_all_ranks
from maskcap.vision_tokens.settings import Patches

log = logging.getLogger(__name__)

Counted = Counter[tuple[int, int]]  # (tokens, all cells of the grid) → images


class PatchTokens(pl.Callback):
    """Logs a line at the end of each validation and of a fit: the images' mean tokens, their range and their share of
    all. Counts the images of all ranks, those that only fill a batch left out. Without `vision_tokens=patches`, and
    where no image was encoded for the language model, it says nothing.
    """

    def __init__(self) -> None:
        self._fit: Counted = Counter()
        self._validation: Counted = Counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here."""
        self._fit.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch's images."""
        _count(self._fit, pl_module, batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here."""
        self._validation.clear()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the batch's images."""
        _count(self._validation, pl_module, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the validation's line."""
        if not trainer.sanity_checking:
            _say("validation", self._validation, trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the fit's line."""
        _say("training", self._fit, trainer, pl_module)


def _patches(module: Any) -> Patches | None:
    settings = getattr(getattr(module, "model", None), "vision_tokens", None)
    return settings if isinstance(settings, Patches) else None


def _count(counted: Counted, module: Any, batch: Any) -> None:
    if _patches(module) is not None and isinstance(batch, Batch):
        counted.update(cost for image, cost in enumerate(module.last_tokens) if not batch.is_padding(image))


def _say(what: str, counted: Counted, trainer: pl.Trainer, module: Any) -> None:
    """Every rank must call it."""
    settings = _patches(module)
    if settings is None:
        return
    whole = of_all_ranks(counted)
    if whole and trainer.is_global_zero:
        log.info("%s", summary(what, whole, settings))


def summary(what: str, counted: Counted, settings: Patches) -> str:
    """`validation: 200 images, mean 127.0 of 256.0 tokens (49.6%), 127 … 127; budget, alpha=0.5`."""
    images = counted.total()
    tokens, cells = (sum(cost[part] * count for cost, count in counted.items()) for part in (0, 1))
    least, most = (pick(cost[0] for cost in counted) for pick in (min, max))
    how = settings.method if settings.method == "v1" else f"{settings.method}, alpha={settings.alpha:g}"
    mean = f"mean {tokens / images:.1f} of {cells / images:.1f} tokens ({tokens / cells:.1%})"
    return f"{what}: {images} images, {mean}, {least} … {most}; {how}"
