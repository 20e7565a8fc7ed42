"""The id under which a wandb run goes on; what it holds is in callbacks/test_wandb.py."""

from __future__ import annotations

from pathlib import Path

from maskcap.training.wandb_log import ID_FILE, WandbLog


def test_the_id_is_the_folders_then_the_checkpoints_runs_then_new(tmp_path: Path):
    new = WandbLog(str(tmp_path / "a")).version
    assert new and new != WandbLog(str(tmp_path / "a")).version  # nothing was logged, so nothing is kept
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / ID_FILE).write_text("abc\n")
    assert WandbLog(str(tmp_path / "a")).version == "abc"
    for checkpoint in ("a", "a/checkpoints", "a/checkpoints/last.ckpt"):
        assert WandbLog(str(tmp_path / "b"), checkpoint=str(tmp_path / checkpoint)).version == "abc"
    assert WandbLog(str(tmp_path / "b"), checkpoint="auto").version != "abc"
    assert WandbLog(str(tmp_path / "b"), id="own", checkpoint=str(tmp_path / "a")).version == "own"
