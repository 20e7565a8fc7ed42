"""Slurm around a command, without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.cli.launch import start_time
from maskcap.cli.slurm import check_submission, go_on_if_requeued, job_folder
from maskcap.cli.train import main
from maskcap.errors import ConfigError


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_folder_is_named_by_job_and_step(monkeypatch):
    assert job_folder() is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert job_folder() == "slurm_12_0"
    start_time.cache_clear()
    assert start_time() == "slurm_12_0"
    start_time.cache_clear()


def test_without_srun_the_arguments_tell_runs_of_a_script_apart(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    folders = []
    for seed in (0, 1, 0):
        monkeypatch.setattr("sys.argv", ["train.py", f"seed={seed}"])
        folders.append(job_folder())
    assert folders[0] == folders[2] != folders[1]
    assert str(folders[0]).startswith("slurm_12_")


def test_a_job_started_again_goes_on_where_it_has_a_checkpoint(monkeypatch, tmp_path: Path):
    config = OmegaConf.create({"checkpoint": "other.ckpt", "paths": {"run": str(tmp_path)}})
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    go_on_if_requeued(config)
    assert config.checkpoint == "other.ckpt"  # it had not come to save anything
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    go_on_if_requeued(config)
    assert config.checkpoint == "auto"


def test_what_submitting_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch and srun on PATH"):
        check_submission(installed=True)
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    check_submission(installed=True)
    with pytest.raises(ConfigError, match=r"pip install .*\[slurm\]"):
        check_submission(installed=False)


def test_the_launcher_without_slurm_or_without_m(command, capsys, monkeypatch, tmp_path):
    assert command(main, "hydra/launcher=slurm", f"hydra.run.dir={tmp_path}/run") == 2
    assert "add -m" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(main, "-m", "hydra/launcher=slurm", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep") == 2
    assert "hydra/launcher=slurm needs sbatch and srun on PATH" in capsys.readouterr().err
