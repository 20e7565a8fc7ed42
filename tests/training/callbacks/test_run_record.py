"""run.json over a fit, a resume, a failure and an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from maskcap.training.callbacks.run_record import RunRecord, record_end

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


class WandbLogger(CSVLogger):
    """A logger of wandb's name, which keeps what it is told."""

    told: dict[str, Any] | None = None

    def log_hyperparams(self, params: Any = None) -> None:
        self.told = params


def test_a_fit_and_its_resume(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    (tmp_path / "config.yaml").write_text("name: demo\nlr: ${name}\n")
    logger = WandbLogger(tmp_path, name="", version="csv")
    trainer = make_trainer(RunRecord(), logger=logger)
    trainer.fit(module, loader, loader)
    first = read(tmp_path)
    assert (first["status"], first["step"], first["processes"], first["device"]) == ("finished", 8, 1, "cpu")
    assert [start["step"] for start in first["starts"]] == [0] and first["ended"] >= first["starts"][0]["at"]
    assert first["code"].keys() == {"commit", "dirty"} and first["versions"]["lightning"]
    assert logger.told is not None and logger.told["lr"] == "${name}" and logger.told["run"]["status"] == "running"

    trainer.save_checkpoint(tmp_path / "a.ckpt")
    make_trainer(RunRecord(), max_epochs=3).fit(
        module, loader, loader, ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )
    starts = read(tmp_path)["starts"]
    assert [start["step"] for start in starts] == [0, 8] and starts[1]["checkpoint"] == str(tmp_path / "a.ckpt")
    assert read(tmp_path)["step"] == 12


def test_what_ended_a_fit_is_named(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    module.on_train_batch_end = fail
    with pytest.raises(ZeroDivisionError):
        make_trainer(RunRecord()).fit(module, loader, loader)
    assert read(tmp_path)["status"] == "ZeroDivisionError"


def test_an_evaluation_is_recorded_and_a_damaged_file_is_written_anew(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any
):
    (tmp_path / "run.json").write_text('{"starts": [')
    make_trainer(RunRecord()).validate(module, loader, verbose=False)
    assert len(read(tmp_path)["starts"]) == 1


def test_a_process_that_leaves_says_why_unless_the_run_had_finished(tmp_path: Path):
    record_end(tmp_path, "rank 1 died")
    assert not (tmp_path / "run.json").exists()
    for before, after in (("running", "rank 1 died"), ("RuntimeError", "rank 1 died"), ("finished", "finished")):
        (tmp_path / "run.json").write_text(json.dumps({"status": before, "starts": []}))
        record_end(tmp_path, "rank 1 died")
        assert read(tmp_path)["status"] == after
