"""MaskCaptionModule: the loops in a Lightning training step, and validation by their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import Curriculum, Loop, StepContext
from maskcap.metrics.prediction import Prediction
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.optimizers import AdamW, WarmupCosine
from maskcap.training.validation import Validation


class MaskCaptionModule(L.LightningModule):
    """Trains `model` by the weighted sum of `loops`.

    describe_sets: names of the validation sets whose captions are generated and scored (None: all of them); masks
    are predicted on every set. meteor: score METEOR too (needs Java). seed: of the steps' own random numbers, which
    depend on it and on the step alone, so a resumed run draws what the undisturbed one would have drawn.
    """

    def __init__(
        self,
        model: MaskCaptionModel,
        loops: Mapping[str, Loop],
        optimizer: AdamW | None = None,
        scheduler: WarmupCosine | None = None,
        curriculum: Curriculum | None = None,
        describe_sets: Sequence[str] | None = None,
        meteor: bool = True,
        pictures: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not loops:
            raise ConfigError("no loop to train: choose loops=both, mask_to_caption, caption_to_mask or prompt_to_mask")
        self.model = model
        self.loops = dict(loops)
        self.optimizer_settings = optimizer or AdamW()
        self.scheduler_settings = scheduler or WarmupCosine()
        self.curriculum = curriculum or Curriculum()
        self.seed = seed
        self.validation = Validation(self.loops, describe_sets, meteor=meteor, pictures=pictures)

    @property
    def val_predictions(self) -> list[Prediction]:
        """The last validation's predictions, one a region and set."""
        return self.validation.predictions

    @property
    def val_pictures(self) -> list[Any]:
        """(image uint8 (H, W, 3), true mask, predicted mask, Prediction) of the last validation's first regions."""
        return self.validation.pictures

    def setup(self, stage: str) -> None:
        """Raises ConfigError when a loop needs captions and no training source has any, or a source has no loop."""
        if stage == "fit":
            _check_captions(self.loops, getattr(self.trainer, "datamodule", None))

    def on_fit_start(self) -> None:
        """Reads the length of the run once: Lightning's estimate walks the loaders."""
        self._total_steps = max(1, int(self.trainer.estimated_stepping_batches))

    def step_context(self, batch: Batch) -> StepContext:
        """This step's encodings, progress and random numbers."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        progress = self.global_step / getattr(self, "_total_steps", 1)
        return StepContext(self.model.encode(batch.image1), progress, self.curriculum, generator)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Weighted sum of the loops' losses; each part is logged as train/<loop>/<part>."""
        context = self.step_context(batch)
        size = len(batch.keys)
        total: torch.Tensor | None = None
        for name, loop in self.loops.items():
            output = loop(self.model, batch, context)
            weighted = loop.weight * output.loss
            total = weighted if total is None else total + weighted
            for part, value in output.logs.items():
                self.log(f"train/{name}/{part}", value, prog_bar=part == "loss", batch_size=size)
        assert total is not None
        self.log("train/loss", total.detach(), batch_size=size)
        return total

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation."""
        self.validation.reset(self._set_names("val_names"))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predictions of every loop on one batch of one set."""
        self.validation.update(self.model, batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs val/… of every set: no suffix for the set called main, _<set> for the others."""
        for name, value in self.validation.compute().items():
            self.log(f"val/{name}", value, sync_dist=False)

    def on_test_epoch_start(self) -> None:
        """As for validation."""
        self.validation.reset(self._set_names("test_names"))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As for validation."""
        self.validation.update(self.model, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Logs test/…"""
        for name, value in self.validation.compute().items():
            self.log(f"test/{name}", value, sync_dist=False)

    def configure_optimizers(self) -> Any:
        """AdamW by parts; the scheduler steps with the optimizer."""
        optimizer = self.optimizer_settings.build(self.model)
        scheduler = self.scheduler_settings.build(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _set_names(self, attribute: str) -> list[str]:
        names = getattr(getattr(self.trainer, "datamodule", None), attribute, None)
        return list(names) if names else ["main"]


def _check_captions(loops: Mapping[str, Loop], datamodule: Any) -> None:
    if datamodule is None or not hasattr(datamodule, "has_captions"):
        return
    having = datamodule.has_captions("train")
    without = [name for name, captions in having.items() if not captions]
    needy = [name for name, loop in loops.items() if loop.needs_captions]
    if needy and without and (len(needy) == len(loops) or not any(having.values())):
        raise ConfigError(
            f"loops {needy} need captions, and the data source(s) {without} have none: use loops=prompt_to_mask for "
            "masks without words, or leave these sources out"
        )
