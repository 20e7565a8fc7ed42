from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from maskcap.training.callbacks.metrics_file import MetricsFile, write_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_the_last_validation_is_written_flat_and_sorted(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    make_trainer(MetricsFile()).fit(module, loader, loader)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics) == ["val/ciou", "val/miou", "step", "epoch", "train_seconds", "val_seconds"]
    assert metrics["val/miou"] == 0.5  # the second validation, the sanity check not counted
    assert metrics["val/ciou"] == 0.5
    assert (metrics["step"], metrics["epoch"]) == (8, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_seconds_separate_training_from_validation_and_go_on_after_a_resume(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any
):
    slow = module.on_validation_epoch_end

    def end_slowly() -> None:
        time.sleep(0.3)
        slow()

    module.on_validation_epoch_end = end_slowly
    callback = MetricsFile()
    callback.load_state_dict({"train_seconds": 100.0})
    make_trainer(callback, num_sanity_val_steps=0).fit(module, loader, loader)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["val_seconds"] >= 0.3
    trained = callback.state_dict()["train_seconds"]
    assert 100 < metrics["train_seconds"] <= trained + 1e-3
    time.sleep(0.05)
    assert callback.state_dict()["train_seconds"] == trained  # the clock stands after the fit


def test_curves_are_drawn_from_the_csv_logger(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    logger = CSVLogger(tmp_path, name="", version="")
    make_trainer(MetricsFile(), logger=logger).fit(module, loader, loader)
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size[0] > 900  # two panels: losses and masks
    text = (tmp_path / "metrics.csv").read_text()
    assert text.count("\n") == 1 + 8 + 2  # flushing early neither lost nor doubled a row


def test_only_finite_numbers_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        write_metrics({"val/a": float("nan"), "val/b": float("inf"), "val/c": 0.5}, tmp_path / "run" / "metrics.json")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"val/a": None, "val/b": None, "val/c": 0.5}
    assert "val/a, val/b" in caplog.text
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]
