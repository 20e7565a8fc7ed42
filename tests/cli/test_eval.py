"""What `python eval.py` makes of a run's configuration and its own command line; the command runs in test_commands."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from maskcap.cli.eval import merge
from maskcap.cli.from_shards import use_shards
from maskcap.cli.launch import conf_folder
from maskcap.cli.train import TRAIN_SCHEMA
from maskcap.config import check_config
from maskcap.errors import ConfigError


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose(name, overrides=[*overrides, "paths.run=/nowhere/run"])
    if "_target_" in config.data:
        use_shards(config, training=name == "train")  # as the commands do
    return config


def merged(*overrides: str, trained: tuple[str, ...] = ()) -> DictConfig:
    given = composed("eval", "checkpoint=x.ckpt", *overrides)
    config = merge(composed("train", *trained), given, overrides)
    use_shards(config, training=False)
    return config


REFCOCO = ("data=refcoco", "data.root=/nowhere")


@pytest.mark.parametrize("overrides", [(), REFCOCO, ("trainer=gpu",), ("data=demo",)])
def test_every_choice_gives_a_valid_run(overrides: tuple[str, ...]):
    config = merged("split=testA", *overrides)
    values = check_config(config, TRAIN_SCHEMA).values
    assert config.data.val_split == "testA"
    assert OmegaConf.select(config, "callbacks.checkpoint") is None
    assert ("scene_probes" in values["callbacks"]) == (overrides != REFCOCO)
    assert values["trainer"]["accelerator"] == ("gpu" if overrides == ("trainer=gpu",) else "auto")


def test_what_a_cycle_run_shows_of_its_training_images_stays_out():
    config = merged("data=demo", trained=("loops=cycle",))
    assert "pseudo_captions" not in config.callbacks and "pictures" in config.callbacks


def test_every_record_is_evaluated_unless_a_limit_is_given():
    trained = ("data.limit_val=7", "+trainer.limit_val_batches=2", "+data.val_regions_per_image=3")
    config = merged(trained=trained)
    assert config.data.limit_val is None and "limit_val_batches" not in config.trainer
    assert config.data.val_regions_per_image == 3
    config = merged("data.limit_val=5", "data.val_regions_per_image=null", trained=trained)
    assert config.data.limit_val == 5 and config.data.val_regions_per_image is None
    assert merged(*REFCOCO).data.get("limit_val") is None


def test_single_values_go_into_the_runs_trainer_and_callbacks():
    config = merged("+trainer.limit_val_batches=2", "+trainer.precision=bf16-mixed", "+callbacks.pictures.count=3")
    assert (config.trainer.limit_val_batches, config.trainer.precision, config.trainer.devices) == (2, "bf16-mixed", 1)
    assert config.callbacks.pictures.count == 3
    assert check_config(config, TRAIN_SCHEMA)["trainer"]["_target_"] == "lightning.Trainer"


def test_another_data_set_is_read_as_the_model_was_trained_to():
    config = merged(*REFCOCO, trained=("module.describe_sets=[content]",))
    assert (config.data.image_size, config.data.caption_choice, config.data.val_phrase_choice) == (
        128,
        "first",
        "first",
    )
    assert config.module.describe_sets is None
    assert merged(*REFCOCO, "data.image_size=256").data.image_size == 256
    trained = ("data=refcoco", "data.root=/elsewhere")
    assert "caption_choice" not in merged("data=demo", trained=trained).data  # that run drew any sentence


def test_data_without_splits_has_none_to_choose_from():
    trained = composed("train", "~data.val_split", "data.val.main.source.split=x", "data.val.content.source.split=x")
    with pytest.raises(ConfigError, match="no `val_split`"):
        merge(trained, composed("eval", "checkpoint=x.ckpt", "split=val"))


@pytest.mark.parametrize("overrides", [("data=shards",), ("data=refcoco",), ()])
def test_shards_take_the_validation_sets_place(overrides: tuple[str, ...]):
    config = merged(*overrides, "data.val_shards=/s")
    check_config(config, TRAIN_SCHEMA)
    assert list(config.data.val) == ["main"] and config.data.val.main.source.shards == "/s"
    assert config.data.train == {}


def test_vision_tokens_are_the_runs_but_for_what_is_given():
    trained = ("vision_tokens=tiling", "vision_tokens.max_crops=9")
    assert merged(trained=trained).vision_tokens.max_crops == 9
    config = merged("+vision_tokens.max_crops=2", trained=trained)
    assert (config.vision_tokens.max_crops, config.vision_tokens.global_view) == (2, True)
    check_config(config, TRAIN_SCHEMA)
    assert merged("vision_tokens=tiling").vision_tokens.max_crops == 12  # of a run with a single view
    assert merged("vision_tokens=single", trained=trained).vision_tokens == {
        "_target_": "maskcap.vision_tokens.settings.SingleView",
        "pool": "nearest",
    }
