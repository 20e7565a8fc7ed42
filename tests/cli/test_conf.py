"""Every file in conf/ composes, passes check_config, and builds where that needs no download and no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from maskcap.cli.from_shards import use_shards
from maskcap.cli.launch import conf_folder
from maskcap.cli.train import TRAIN_SCHEMA
from maskcap.config import CheckedConfig, check_config

CONF = conf_folder()
GROUPS = ["callbacks", "data", "debug", "logger", "loops", "model", "optimizer", "paths", "scheduler", "segmenter"]
GROUPS += ["trainer", "vision_tokens"]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


CHOICES = [f"{group}={choice}" for group in GROUPS for choice in choices(group)]
EXPERIMENTS = choices("experiment")


def composed(*overrides: str, name: str = "train") -> DictConfig:
    given = list(overrides)
    if any(re.fullmatch(r"(data|experiment)=(?!demo|shards).*", each) for each in given):
        given.append("data.root=/nowhere")
    if "data=shards" in given:
        given.append("data.shards=/nowhere")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=[*given, "paths.run=/nowhere/run"])
    use_shards(config)  # as the commands do before they check
    return config


def checked(*overrides: str) -> CheckedConfig:
    return check_config(composed(*overrides), TRAIN_SCHEMA)


def test_no_group_is_forgotten_here():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    # loader is part of data's choices, geometry of `maskcap tokens`
    assert folders == {*GROUPS, "experiment", "hydra", "loader", "geometry"}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group(choice: str):
    values = checked(choice).values
    assert set(values) == set(TRAIN_SCHEMA) and not {"shards", "val_shards"} & set(values["data"])


@pytest.mark.parametrize("debug", [None, *choices("debug")])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_with_every_debug(experiment: str, debug: str | None):
    config = checked(f"experiment={experiment}", *([f"debug={debug}"] if debug else []))
    assert config["name"] == ("overfit" if debug == "overfit" else experiment)
    if debug == "overfit":
        assert config["model"]["_target_"].endswith("tiny_internvl") and config["trainer"]["accelerator"] == "auto"
        assert config["data"]["val"] == config["data"]["train"] or experiment == "demo"


def test_train_without_arguments_is_the_demo_experiment():
    assert checked().values == checked("experiment=demo").values


@pytest.mark.parametrize("loops", choices("loops"))
def test_tiny_models_build_with_every_choice_of_loops(loops: str):
    module = checked("model.patch_size=16", f"loops={loops}").build("module")
    assert sorted(module.loops) == sorted(["mask_to_caption", "caption_to_mask"] if loops == "both" else [loops])


@pytest.mark.parametrize("data", choices("data"))
def test_data_modules_build_without_touching_the_disk(data: str):
    assert checked(f"data={data}").build("data").val_names[0] == "main"


@pytest.mark.parametrize("logger", choices("logger"))
def test_loggers_build(logger: str, tmp_path: Path):
    config = composed(f"logger={logger}")
    config.paths.run = str(tmp_path)
    assert all(hasattr(each, "log_metrics") for each in check_config(config, TRAIN_SCHEMA).build("logger").values())


def test_callbacks_and_trainer_build(tmp_path: Path):
    config = composed("debug=profile")
    config.paths.run = str(tmp_path)
    built = check_config(config, TRAIN_SCHEMA)
    trainer = built.build("trainer", callbacks=list(built.build("callbacks").values()), logger=False)
    assert trainer.log_every_n_steps == 10 and trainer.checkpoint_callback is not None
    assert {"SceneProbes", "Pictures", "MetricsFile"} <= {type(each).__name__ for each in trainer.callbacks}  # pyright: ignore


@pytest.mark.parametrize("experiment", ["sa1b", "sav"])
def test_masks_without_words_fine_tune_sam2_at_one_low_rate_and_overfit_at_the_tiny_models(experiment: str):
    config = checked(f"experiment={experiment}")
    assert (config["optimizer"]["lr"], config["optimizer"]["betas"]) == (4e-5, [0.9, 0.999])
    assert config["optimizer"]["learning_rates"] == {}
    assert set(config["module"]["curriculum"].values()) - {"maskcap.loops.base.Curriculum"} == {0.0}
    tiny = checked(f"experiment={experiment}", "debug=overfit")
    assert tiny["optimizer"]["lr"] >= 5e-4
    assert "segmenter.*" in tiny["optimizer"]["learning_rates"]


def test_overfit_generates_captions_as_long_as_real_ones():
    assert checked("experiment=refcoco", "debug=overfit")["mask_caption"]["max_new_tokens"] == 128


def test_the_module_says_how_many_pictures_there_are():
    assert checked("module.pictures=12")["callbacks"]["pictures"]["count"] == 12
