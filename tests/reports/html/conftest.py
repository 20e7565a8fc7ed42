"""Folders of runs, written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(name, miou, lr) → its folder, with every file that the page reads."""

    def make(name: str, miou: float = 0.5, lr: float = 1e-3) -> Path:
        run = tmp_path / name
        (run / "samples").mkdir(parents=True)
        (run / "config.yaml").write_text(f"# train.py optimizer.lr={lr}\nname: demo\noptimizer: {{lr: {lr}}}\n")
        metrics = {"val/miou": miou, "val/caption_exact": 0.25, "val/swap_colour": miou, "step": 40, "epoch": 1}
        (run / "metrics.json").write_text(json.dumps(metrics))
        rows = [f"0,{step},{1 + 1 / (step + 1):.4f},{miou if step == 39 else ''}" for step in range(40)]
        (run / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/miou", *rows]) + "\n")
        facts = {"status": "finished", "code": {"commit": "c0ffee", "dirty": False}}
        facts["starts"] = [{"at": "noon", "step": 0}]  # type: ignore[assignment]
        (run / "run.json").write_text(json.dumps(facts))
        for step in (20, 40):
            Image.fromarray(np.full((4, 4 * step, 3), step, np.uint8)).save(run / "samples" / f"step_{step:06d}.png")
        return run

    return make
