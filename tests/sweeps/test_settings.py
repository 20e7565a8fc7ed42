from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler

from maskcap.cli.launch import conf_folder
from maskcap.errors import ConfigError
from maskcap.sweeps.settings import PrunerSettings, SamplerSettings, read_settings
from maskcap.sweeps.space import read_space

CONFIG = OmegaConf.create({"callbacks": {"checkpoint": {"mode": "max"}}})


def given(**changes: Any) -> dict[str, Any]:
    """The shipped settings, as Hydra hands them to the sweeper."""
    loaded = OmegaConf.load(conf_folder() / "hydra" / "sweeper" / "optuna.yaml")
    values = {str(key): loaded[key] for key in loaded if key not in ("_target_", "params", "seed")}
    return {**values, "seed": 0, **changes}


def test_the_shipped_settings():
    settings = read_settings(given(), CONFIG)
    assert (settings.direction, settings.n_trials, settings.pruner) == ("maximize", 20, PrunerSettings())
    assert isinstance(settings.sampler.build(0), TPESampler) and isinstance(settings.pruner.build(), MedianPruner)
    assert isinstance(SamplerSettings("random").build(0), RandomSampler)
    assert isinstance(PrunerSettings("halving").build(), SuccessiveHalvingPruner)
    assert isinstance(PrunerSettings("none").build(), NopPruner)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials must be at least 1, not 0"),
        ({"n_trials": "many"}, "hydra.sweeper.n_trials must be int, not 'many'"),
        ({"study": "a/b"}, "hydra.sweeper.study must be a name without '/'"),
        ({"direction": "up"}, "hydra.sweeper.direction must be"),
        ({"sampler": {"name": "grid"}}, "hydra.sweeper.sampler.name must be"),
        ({"pruner": {"startup": 1}}, "unknown key 'hydra.sweeper.pruner.startup'; did you mean 'startup_trials'"),
        ({"pruner": "median"}, "hydra.sweeper.pruner must be a mapping"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        read_settings(given(**changes), CONFIG)
    assert str(error.value).startswith(message)


def test_the_direction_is_the_checkpoints():
    assert (
        read_settings(given(), OmegaConf.create({"callbacks": {"checkpoint": {"mode": "min"}}})).direction == "minimize"
    )
    with pytest.raises(ConfigError, match="say hydra.sweeper.direction=maximize"):
        read_settings(given(), OmegaConf.create({"callbacks": {"checkpoint": None}}))
    assert read_settings(given(direction="minimize"), CONFIG).direction == "minimize"


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["hydra/sweeper=optuna"], "runs/demo/sweep"),
        (["sweep=demo", "experiment=demo_cycle"], "runs/demo_cycle/sweep_demo"),
        (["sweep=demo", "hydra.sweeper.study=again"], "runs/demo/again"),
        ([], "runs/demo/20"),
    ],
)
def test_a_study_has_a_folder_that_is_found_again(overrides: list[str], folder: str):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", overrides=overrides, return_hydra_config=True)
    assert config.hydra.sweep.dir.startswith(folder) and (folder.endswith("20") or config.hydra.sweep.dir == folder)


def test_every_sweep_is_a_space():
    for file in sorted((conf_folder() / "sweep").glob("*.yaml")):
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("train", overrides=[f"sweep={file.stem}"], return_hydra_config=True)
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            space = read_space(dict(config.hydra.sweeper.params), [], hydra.config_loader)
            compose("train", overrides=space.probes()[0])
        assert config.optimized_metric and len(space.distributions) > 1
