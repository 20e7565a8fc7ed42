"""A module of one weight and a trainer that trains it for a few steps: enough for every hook of a callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar
from torch.utils.data import DataLoader

from maskcap.metrics.prediction import Prediction


class TinyModule(pl.LightningModule):
    """Logs what the real module logs; validates `miou` = 0.25 · (number of validations)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.validations = 0
        self.val_pictures: list[Any] = []
        self.miou = 0.25

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.weight * batch.mean()) ** 2
        self.log("train/mask_to_caption/loss", loss * 2, prog_bar=True)
        self.log("train/caption_to_mask/loss", loss * 3, prog_bar=True)
        self.log("train/caption_to_mask/map_loss", loss * 4)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        image = np.full((8, 8, 3), 100, np.uint8)
        mask = np.eye(8, dtype=bool)
        said = Prediction("tiny/val/0", "0", "main", "tiny", caption="a line", predicted_caption="a dot")
        self.val_pictures = [(image, mask, mask, said), (image, mask, None, said), (image, mask, mask, said)]

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validations += 1
        self.log("val/miou", self.miou * self.validations)
        self.log("val/ciou", 0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def module() -> TinyModule:
    return TinyModule()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    def make(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        defaults: dict[str, Any] = dict(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks), log_every_n_steps=1,
        )  # fmt: skip
        return pl.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **{**defaults, **options})

    return make


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(torch.ones(4, 3), batch_size=1)  # pyright: ignore[reportArgumentType]
