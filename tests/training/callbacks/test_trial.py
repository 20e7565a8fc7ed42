from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import pytest
import torch

from maskcap.errors import ConfigError
from maskcap.sweeps.storage import open_storage, sqlite_url
from maskcap.training.callbacks.trial import TrialReport


class Slope(pl.LightningModule):
    """Logs slope × the epoch, from 1, as the metric."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.weight = slope, torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val/miou", self.slope * (self.current_epoch + 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(slope: float, callback: TrialReport, folder: Path, epochs: int = 4) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], default_root_dir=folder, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([0.0])
    trainer.fit(Slope(slope), loader, loader)
    return trainer


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A study to maximize, whose median is trusted after one trial and one validation."""
    url = sqlite_url(tmp_path)
    with open_storage(url) as storage:
        study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
        study.set_user_attr("pruner", {"name": "median", "startup_trials": 1, "warmup": 1})
    return url


def ask(url: str) -> int:
    with open_storage(url) as storage:
        return optuna.load_study(study_name="s", storage=storage).ask().number


def test_a_trial_reports_and_a_bad_one_ends_early(url: str, tmp_path: Path):
    for slope, epochs in ((1.0, 4), (0.5, 2), (2.0, 4)):
        number = ask(url)
        trainer = fit(slope, TrialReport(url, "s", number, "val/miou"), tmp_path)
        assert trainer.current_epoch == epochs
        with open_storage(url) as storage:
            study = optuna.load_study(study_name="s", storage=storage)
            trial = study.trials[number]
            assert trial.intermediate_values == {n + 1: slope * (n + 1) for n in range(epochs)}
            assert trial.user_attrs.get("pruned_at") == (2 if epochs == 2 else None)
            assert trial.user_attrs["finished"] == slope * epochs
            study.tell(number, slope * epochs)


def test_after_the_last_validation_there_is_nothing_to_prune(url: str, tmp_path: Path):
    for slope in (1.0, 0.5):
        number = ask(url)
        fit(slope, TrialReport(url, "s", number, "val/miou"), tmp_path, epochs=2)
        with open_storage(url) as storage:
            study = optuna.load_study(study_name="s", storage=storage)
            assert "pruned_at" not in study.trials[number].user_attrs
            study.tell(number, slope)


def test_a_trial_that_the_sweep_gave_up_stops(url: str, tmp_path: Path):
    number = ask(url)
    with open_storage(url) as storage:
        optuna.load_study(study_name="s", storage=storage).tell(number, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(ConfigError, match="trial 0 of study s was given up"):
        fit(1.0, TrialReport(url, "s", number, "val/miou"), tmp_path)


def test_a_study_out_of_reach_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        trainer = fit(1.0, TrialReport(sqlite_url(tmp_path / "gone"), "s", 0, "val/miou"), tmp_path)
    warned = [each for each in caplog.messages if "cannot reach its study" in each]
    assert trainer.current_epoch == 4 and len(warned) == 1


def test_a_resumed_trial_counts_on():
    callback = TrialReport("", "s", 0, "val/miou")
    callback.load_state_dict({"validations": 3})
    assert callback.state_dict() == {"validations": 3}
