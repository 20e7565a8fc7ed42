"""A wandb run without network holds config, pictures and the table of predictions; a resumed one goes on in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskcap.training.callbacks.pictures import Pictures
from maskcap.training.callbacks.run_record import RunRecord
from maskcap.training.wandb_log import ID_FILE, WandbLog


def test_a_run_and_its_resume_are_one_wandb_run(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")  # Lightning sets it and leaves it
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "config.yaml").write_text("name: demo\noptimizer: {lr: 0.125}\n")
    for epochs in (1, 2):
        callbacks = Pictures(count=2), RunRecord()
        logger = WandbLog(str(tmp_path / "a"), checkpoint=str(tmp_path / "a" / "last.ckpt"))
        trainer = make_trainer(*callbacks, logger=logger, max_epochs=epochs)
        resumed = None if epochs == 1 else tmp_path / "a" / "last.ckpt"
        trainer.fit(module, loader, loader, ckpt_path=resumed, weights_only=False)
        trainer.save_checkpoint(tmp_path / "a" / "last.ckpt")
    first, again = sorted((tmp_path / "a" / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime)
    run_id = (tmp_path / "a" / ID_FILE).read_text().strip()
    assert first.name.endswith(run_id) and again.name.endswith(run_id)
    assert [start["step"] for start in json.loads((tmp_path / "run.json").read_text())["starts"]] == [0, 4]

    (written,) = first.glob("*.wandb")
    sent = written.read_bytes()
    assert b"optimizer" in sent and b"0.125" in sent and b"versions" in sent and b"val/miou" in sent
    assert len(list(first.rglob("samples*.png"))) == 1
    (table,) = first.rglob("predictions*.table.json")
    content = json.loads(table.read_text())
    columns = ["record", "region", "set", "picture", "caption", "predicted caption", "asked for", "iou"]
    assert content["columns"] == columns
    assert [row[:3] + row[4:] for row in content["data"]] == [
        ["tiny/val/0", "0", "main", "a line", "a dot", None, None]
    ] * 2
    assert b"media/images/mask/" in sent  # the table's pictures and masks, which wandb sends as its artifact
