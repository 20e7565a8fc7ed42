"""The id under which a wandb run goes on; what it holds is in callbacks/test_wandb.py."""

from __future__ import annotations

from pathlib import Path

from maskcap.training.wandb_log import ID_FILE, WandbLog


def test_the_id_is_the_folders_or_new(tmp_path: Path):
    new = WandbLog(str(tmp_path / "a")).version
    assert new and new != WandbLog(str(tmp_path / "a")).version  # nothing was logged, so nothing is kept
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / ID_FILE).write_text("abc\n")
    for checkpoint in (None, "auto", str(tmp_path / "a"), str(tmp_path / "a" / "checkpoints" / "last.ckpt")):
        own = WandbLog(str(tmp_path / "a"), checkpoint=checkpoint)
        assert own.version == "abc" and "config" not in own._wandb_init
    assert WandbLog(str(tmp_path / "b"), id="own", checkpoint=str(tmp_path / "a")).version == "own"


def test_runs_that_begin_with_one_checkpoint_are_runs_of_their_own(tmp_path: Path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / ID_FILE).write_text("abc\n")
    for checkpoint in ("a", "a/checkpoints", "a/checkpoints/last.ckpt"):
        place = str(tmp_path / checkpoint)
        first, second = (WandbLog(str(tmp_path / name), checkpoint=place, config={"x": 1}) for name in "bc")
        assert len({first.version, second.version, "abc"}) == 3
        assert first._wandb_init["config"] == {"x": 1, "resumed_from": {"checkpoint": place, "id": "abc"}}
    (tmp_path / "a" / ID_FILE).unlink()
    bare = WandbLog(str(tmp_path / "b"), checkpoint=str(tmp_path / "a"))
    assert bare._wandb_init["config"] == {"resumed_from": {"checkpoint": str(tmp_path / "a")}}
