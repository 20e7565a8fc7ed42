"""What the callbacks that count images have in common: when they count, and when they say so."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist

from maskcap.data.batch import Batch


class ImageCounts(ABC, pl.Callback):
    """Counts something of each image of a validation and of a fit, and has a line for the log at the end of either.

    The images (frames) of all ranks, those that only fill a batch left out; a fit's are those seen since it was started
    or resumed.
    """

    def __init__(self) -> None:
        self._fit: Counter[Any] = Counter()
        self._validation: Counter[Any] = Counter()

    @abstractmethod
    def applies(self, module: Any) -> bool:
        """Whether there is anything to count; the same on every rank."""

    @abstractmethod
    def of_images(self, module: Any, batch: Batch, images: Sequence[int]) -> Iterable[Hashable]:
        """What is counted of each of these images of the batch, those that only fill it among them; nothing at all
        where none was encoded. A sample's number stands for its first image, and again for each further frame."""

    @abstractmethod
    def say(self, what: str, counted: Counter[Any], module: Any) -> None:
        """Log `counted`, not empty, of all ranks; what: "training" or "validation"."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here."""
        self._fit.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch's images, but for those that no loop learned from: they were not encoded."""
        self._count(self._fit, pl_module, batch, getattr(pl_module, "last_images", None))

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
        self._count(self._validation, pl_module, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the validation's line."""
        if not trainer.sanity_checking:
            self._say("validation", self._validation, trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the fit's line."""
        self._say("training", self._fit, trainer, pl_module)

    def _count(self, counted: Counter[Any], module: Any, batch: Any, images: Sequence[int] | None = None) -> None:
        if self.applies(module) and isinstance(batch, Batch):
            used = list(range(len(batch.keys)) if images is None else images)
            used += [owner for owner in batch.frame_owner if owner in used]  # where encodings have them: at the end
            found = zip(used, self.of_images(module, batch, used), strict=False)
            counted.update(each for image, each in found if not (batch.is_padding(image) or batch.is_blank(image)))

    def _say(self, what: str, counted: Counter[Any], trainer: pl.Trainer, module: Any) -> None:
        """Every rank calls it: the counts of all are summed up."""
        if not self.applies(module):
            return
        whole = counted
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, counted)
            whole = sum(parts, Counter())
        if whole and trainer.is_global_zero:
            self.say(what, whole, module)
