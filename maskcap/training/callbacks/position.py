"""Where a run is: the trainer knows in a fit; in an evaluation only the loaded checkpoint does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl


@dataclass(frozen=True)
class LoadedPosition:
    """Optimiser steps and epochs done in the checkpoint that was loaded last; zeros without one."""

    step: int = 0
    epoch: int = 0

    @staticmethod
    def of(checkpoint: Mapping[str, Any]) -> LoadedPosition:
        """Of a checkpoint that Lightning wrote."""
        return LoadedPosition(int(checkpoint["global_step"]), int(checkpoint["epoch"]))

    def position(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Step and epoch to name now: a fit's own, for validation alone the checkpoint's."""
        if trainer.state.fn == "fit" or trainer.global_step:
            return trainer.global_step, trainer.current_epoch
        return self.step, self.epoch
