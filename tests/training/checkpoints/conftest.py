"""Checkpoints small enough to read in full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskcap.training.checkpoints.files import CheckpointFiles


@pytest.fixture
def content() -> Callable[..., dict[str, Any]]:
    """`content(step)` → a checkpoint as Lightning hands it over, every number in it the step's."""

    def make(step: int, numbers: int = 6) -> dict[str, Any]:
        table = torch.full((numbers,), float(step))
        state = {"table": table, "head": table, "scale": torch.tensor(step), "half": table.to(torch.bfloat16)}
        return {"global_step": step, "epoch": 0, "state_dict": state, "optimizer_states": [{"m": table + 0.5}]}

    return make


@pytest.fixture
def saved(content: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """`saved(step, name="last")` → the path of a new checkpoint in `tmp_path/checkpoints`."""

    def save(step: int, name: str = "last") -> Path:
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        CheckpointFiles().save_checkpoint(content(step), path)
        return path

    return save
