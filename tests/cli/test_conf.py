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
from maskcap.data.scenes import make_scenes

CONF = conf_folder()
GROUPS = ["callbacks", "data", "debug", "logger", "loops", "model", "optimizer", "paths", "scheduler", "segmenter"]
GROUPS += ["sweep", "trainer", "vision_tokens"]


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
    # loader and scenes are part of data's choices, geometry of `maskcap tokens`
    assert folders == {*GROUPS, "experiment", "hydra", "loader", "scenes", "geometry"}


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
        if "cycle" in experiment or experiment == "sa2va_4b":
            assert config["data"]["val"]["main"]["source"]["split"] == "train"
        else:
            assert config["data"]["val"] == config["data"]["train"] or experiment == "demo"


def test_train_without_arguments_is_the_demo_experiment():
    assert checked().values == checked("experiment=demo").values


@pytest.mark.parametrize("loops", choices("loops"))
def test_tiny_models_build_with_every_choice_of_loops(loops: str):
    module = checked("model.patch_size=16", f"loops={loops}").build("module")
    both = ["caption_to_mask", "mask_to_caption"]
    expected = {"both": both, "cycle": [*both[:1], "cycle", *both[1:]], "all": [*both[:1], "dialogue", *both[1:]]}
    assert sorted(module.loops) == expected.get(loops, [loops])


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


def test_the_demo_without_most_captions_differs_from_the_demo_in_what_it_trains_on_alone():
    demo, cycle = checked("data=demo").values, checked("data=demo_cycle").values
    changed = {name for name in demo["data"] if demo["data"][name] != cycle["data"][name]}
    assert changed == {"train", "spread"} and set(demo["data"]) == set(cycle["data"])
    assert demo | {"data": None} == cycle | {"data": None}


@pytest.mark.parametrize("data", ["demo_cycle", "cycle_sa1b", "cycle_sav"])
def test_captions_here_and_masks_there_in_every_batch(data: str, tmp_path: Path):
    sizes = {"seed": 0, "train": 15, "val": 3, "size": 64}
    if data == "demo_cycle":
        given = [f"data.prepare.{name}={size}" for name, size in sizes.items()]
    else:
        make_scenes(tmp_path, **sizes)
        given = ["data.val_fraction=0.3", "data.image_size=64", "data.batch_size=4", "data.num_workers=0"]
    config = composed(f"data={data}", *given, "data.samples_per_epoch=16")
    config.data.root = str(tmp_path)
    module = check_config(config, TRAIN_SCHEMA).build("data")
    module.prepare_data()
    module.setup("fit")
    worded, bare = module.has_captions("train")
    assert module.has_captions("train") == module.has_phrases("train") == {worded: True, bare: False}
    images = [{source.image_of(i) for i in range(len(source))} for source in module.train_sources.values()]
    assert not images[0] & images[1]
    if data == "demo_cycle":
        assert len(images[0]) == 3 and len(images[1]) == 12
    for batch in module.train_dataloader():
        regions = zip(batch.images_of(range(len(batch.caption))), batch.caption, strict=True)
        captioned = {image for image, caption in regions if caption is not None}
        assert len(captioned) == len(batch.keys) / 2
        assert (batch.image2 is not None) == (data == "cycle_sav")
        if batch.image2 is not None:
            stills = [i for i in range(len(batch.keys)) if (batch.image1[i] == batch.image2[i]).all()]
            assert set(stills) == captioned
    names = {"demo_cycle": ["main", "content"], "cycle_sa1b": ["main", "sa1b"], "cycle_sav": ["main", "sav"]}[data]
    assert module.val_names == names
    singles = [next(iter(loader)).image2 is None for loader in module.val_dataloader()]
    assert singles == [True, data != "cycle_sav"]


def test_overfit_generates_captions_as_long_as_real_ones():
    assert checked("experiment=refcoco", "debug=overfit")["mask_caption"]["max_new_tokens"] == 128


def test_the_module_says_how_many_pictures_there_are():
    assert checked("module.pictures=12")["callbacks"]["pictures"]["count"] == 12


def test_the_cycle_brings_a_callback_beside_the_others(tmp_path: Path):
    others = set(checked("loops=both")["callbacks"])
    config = composed("experiment=demo_cycle")
    assert set(config.callbacks) - others == {"pseudo_captions"}
    (callback,) = [
        each
        for each in checked("experiment=demo_cycle").build("callbacks").values()
        if type(each).__name__ == "PseudoCaptions"
    ]
    assert (callback.count, callback.image_size) == (20, None)
    assert checked("loops=cycle", "callbacks.pseudo_captions.count=3")["callbacks"]["pseudo_captions"]["count"] == 3
    assert set(checked("loops=cycle", "callbacks.pseudo_captions=null").build("callbacks")) == others
