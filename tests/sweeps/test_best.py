"""The best trial's file composes to what the trial was."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from maskcap.cli.launch import conf_folder
from maskcap.sweeps.best import write_best
from maskcap.sweeps.space import SearchSpace, read_space

CONF = str(conf_folder())


def composed(*overrides: str) -> dict:
    with initialize_config_dir(CONF, version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=list(overrides)))  # type: ignore[return-value]


def written(arguments: list[str], params: dict[str, str], folder: Path) -> tuple[SearchSpace, dict, list[str]]:
    with initialize_config_dir(CONF, version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        space = read_space(params, arguments, hydra.config_loader)
        last = {key: getattr(each, "high", None) for key, each in space.distributions.items()}
        values = {key: "cpu" if key == "trainer" else value for key, value in last.items()}
        command = write_best(space, values, folder, hydra.config_loader, "trial 7")
    return space, values, shlex.split(command)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["experiment=demo_cycle", "loops.cycle.weight=2", "debug=limit", "model=qwen2_vl_tiny"],
        ["experiment=demo", "sweep=demo", "~callbacks.pictures", "logger=csv", "+trainer.limit_train_batches=3"],
        ["data.root=/a b/c", "name='x, y'", "optimized_metric=null", "module.describe_sets=[main,content]"],
    ],
    ids=["nothing", "groups", "sweep", "odd values"],
)
def test_the_file_composes_to_the_trial(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    params = {
        "optimizer.lr": "interval(0.0, 0.25)",
        "trainer": "choice(auto, cpu)",
        "+trainer.min_steps": "range(1, 3)",
    }
    (tmp_path / "sweep").mkdir()
    space, values, command = written(arguments, params, tmp_path / "sweep")
    assert command[:4] == ["python", "train.py", "--config-dir=sweep", "+experiment=best"]
    text = (tmp_path / "sweep" / "experiment" / "best.yaml").read_text()
    assert text.startswith("# @package _global_\n# trial 7\n# python train.py --config-dir=sweep +experiment=best")
    trial = composed(*space.overrides(values))
    search = f"hydra.searchpath=[file://{tmp_path / 'sweep'}]"
    assert composed("experiment=best", search, *command[4:]) == trial
    assert trial["optimizer"]["lr"] == 0.25 and trial["trainer"]["accelerator"] == "cpu"
