from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskcap.training.callbacks.metrics_file import MetricsFile
from maskcap.training.callbacks.pictures import Pictures
from maskcap.training.callbacks.position import LoadedPosition

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_an_evaluation_names_the_step_and_epoch_of_its_checkpoint(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any
):
    trainer = make_trainer(Pictures(), MetricsFile())
    trainer.fit(module, loader, loader)
    written = json.loads((tmp_path / "metrics.json").read_text())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "samples" / "step_000008.png").unlink()
    evaluation = make_trainer(Pictures(), MetricsFile())
    evaluation.validate(module, loader, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["step"] == written["step"] == 8
    assert again["epoch"] == trainer.current_epoch
    assert (tmp_path / "samples" / "step_000008.png").is_file()
    assert LoadedPosition().position(evaluation) == (0, 0)
