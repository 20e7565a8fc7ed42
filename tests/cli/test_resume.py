"""`checkpoint=` in all its forms, and the folders that a run cannot have, as a user meets them."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from maskcap.cli.eval import main as evaluate
from maskcap.cli.runs import checkpoint_file, resume_from
from maskcap.cli.train import main as train
from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.checkpoints.manifest import read_manifest
from maskcap.training.checkpoints.reading import read_checkpoint
from tests.processes import tiny_run


def save(path: Path, step: int) -> Path:
    CheckpointFiles().save_checkpoint({"global_step": step, "state_dict": {"a": torch.ones(2)}}, path)
    return path


def damage(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest is not None
    path.with_name(manifest.weights.name).write_bytes(b"")


def test_a_run_folder_stands_for_its_newest_good_checkpoint(tmp_path: Path):
    run = tmp_path / "run"
    best, last = save(run / "checkpoints" / "best.ckpt", 1), save(run / "checkpoints" / "last.ckpt", 2)
    assert checkpoint_file(str(run)) == checkpoint_file(str(run / "checkpoints")) == last
    assert resume_from("auto", run) == last == resume_from(str(last), tmp_path)
    damage(last)
    assert checkpoint_file(str(run)) == best and checkpoint_file(str(last)) == last  # asked for by name
    damage(best)
    with pytest.raises(CheckpointError, match="checkpoint=.*/run is a folder without a good checkpoint: give"):
        checkpoint_file(str(run), str(tmp_path / "runs"))
    with pytest.raises(CheckpointError, match=r"auto: none of .* is whole \(.*last.ckpt.*\): remove them to start"):
        resume_from("auto", run)


def test_nothing_to_resume_is_the_start(tmp_path: Path):
    assert resume_from(None, tmp_path) is None and resume_from("auto", tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert resume_from("auto", tmp_path) is None


class FreezeSight(L.Callback):
    """So that a tiny run has weights that do not train."""

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.model.vlm.model.model.vision_tower.requires_grad_(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "demo"


FREEZE = ["trusted_targets=[tests]", "+callbacks.freeze._target_=tests.cli.test_resume.FreezeSight"]


def test_trained_weights_alone_resume_as_everything_does(
    command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ends = []
    for weights in ("everything", "trained"):
        run, options = tmp_path / weights, tiny_run(data, *FREEZE, f"checkpoints.weights={weights}")
        options += [f"hydra.run.dir={run}", "checkpoint=auto", "mask_caption.grounding=false"]
        for epochs in (1, 2):
            assert command(train, *options, f"trainer.max_epochs={epochs}") == 0, capsys.readouterr().err
        ends.append(run / "checkpoints" / "last.ckpt")
    assert command(train, *options) == 0
    log = (tmp_path / "trained" / "train.log").read_text()
    assert "from the start" in log and f"going on from {ends[-1]}" in log
    assert "is at the end of this run already (step 12): nothing was trained" in log
    everything, trained = (read_checkpoint(path) for path in ends)
    assert everything["global_step"] == trained["global_step"] == 12
    left_out = set(everything["state_dict"]) - set(trained["state_dict"])
    assert left_out == set(trained["frozen_weights"]) and any("vision_tower" in name for name in left_out)
    for name, weight in trained["state_dict"].items():
        assert torch.equal(weight, everything["state_dict"][name]), name

    other = tiny_run(data, *FREEZE, f"checkpoint={tmp_path / 'trained'}", f"hydra.run.dir={tmp_path / 'other'}")
    capsys.readouterr()
    assert command(train, *other, "mask_caption.grounding=false", "trainer.max_epochs=3", "model.seed=1") == 2
    assert "is frozen, not in the checkpoint, and another one here: sha256" in capsys.readouterr().err


def test_a_checkpoint_of_another_configuration(command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    options = tiny_run(data, f"hydra.run.dir={run}")
    assert command(train, *options, "trainer.max_epochs=1") == 0
    capsys.readouterr()
    resumed = [f"checkpoint={run}", f"hydra.run.dir={tmp_path / 'other'}"]
    assert command(train, *options, *resumed, "model.hidden_size=48") == 2
    error = capsys.readouterr().err
    assert "last.ckpt cannot be loaded: it is of another model or optimizer. model.hidden_size differ" in error
    assert "size mismatch for model." in error and "Traceback" not in error
    assert command(train, *options, *resumed, "++optimizer.learning_rates={vlm.*:1e-3}") == 2
    assert "of another model or optimizer. optimizer.learning_rates.vlm.* differ" in capsys.readouterr().err

    # a damaged and a hostile one, for both commands
    damage(run / "checkpoints" / "last.ckpt")
    for main in (train, evaluate):
        given = options if main is train else []
        assert command(main, *given, f"checkpoint={run}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/x") == 2
        error = capsys.readouterr().err
        assert "is damaged: 0 bytes" in error and "There is no good checkpoint beside it" in error
    torch.save({"state_dict": {}, "loops": Path}, run / "checkpoints" / "last.ckpt")
    assert command(train, *options, f"checkpoint={run}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/x") == 2
    assert "holds pathlib.Path: it was not loaded" in capsys.readouterr().err


def test_folders_that_a_run_cannot_have(command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    (tmp_path / "log" / "train.log").mkdir(parents=True)
    (tmp_path / "lock" / ".lock").mkdir(parents=True)
    for place, reason in (("file", "File exists"), ("log", "Is a directory"), ("lock", "Is a directory")):
        assert command(train, *tiny_run(data, f"hydra.run.dir={tmp_path / place}")) == 2
        error = capsys.readouterr().err
        assert f"{place}" in error and f"cannot be written: {reason}. Make it writable, or choose another" in error
        assert "Traceback" not in error


def test_a_folder_in_use(command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text(json.dumps({"host": "here", "pid": 7, "start": "today"}))
    told, tell = os.pipe()
    child = os.fork()  # a record lock is not held against the process that has it
    if child == 0:
        with open(run / ".lock", "r+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            os.write(tell, b"x")
            time.sleep(60)
        os._exit(0)
    try:
        os.read(told, 1)
        assert command(train, *tiny_run(data, f"hydra.run.dir={run}")) == 2
        assert "is in use by another run (process 7 on here, started today)" in capsys.readouterr().err
        assert not (run / "config.yaml").exists()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


class FillTheDisk(L.Callback):
    """After the third step nothing more fits, after the ninth it does again."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        rest = Path(trainer.default_root_dir) / "rest"
        if trainer.global_step == 3:
            with contextlib.suppress(OSError), open(rest, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        elif trainer.global_step == 9:
            rest.unlink()


def test_a_disk_that_is_full_for_a_while_ends_no_run(
    command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    run.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(run)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs rights: {mounted.stderr.decode().strip()}")
    try:
        options = tiny_run(data, f"hydra.run.dir={run}", "trusted_targets=[tests]")
        options += ["+callbacks.fill._target_=tests.cli.test_resume.FillTheDisk", "data.limit_val=2"]
        options += ["++trainer.limit_val_batches=1"]
        assert command(train, *options) == 0
        assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 12
        said = capsys.readouterr().out
        for name in ("checkpoints/last.ckpt could not be saved", "metrics.json could not be written"):
            assert f"{run}/{name}: No space left on device" in said
        lines = (run / "metrics.csv").read_text().splitlines()
        rows = [row for row in csv.DictReader(lines) if row["train/loss"]]
        assert [int(row["step"]) for row in rows] == list(range(12))  # kept until there was room
    finally:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
        subprocess.run(["umount", str(run)], check=True)


def test_an_earlier_runs_checkpoints_are_not_replaced(
    command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("{}")
    assert command(train, *tiny_run(data, f"hydra.run.dir={tmp_path}")) == 2
    assert "holds last.ckpt of an earlier run, which this one would replace: checkpoint=auto" in capsys.readouterr().err
