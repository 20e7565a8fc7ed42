from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from maskcap.cli.from_shards import SOURCE, use_shards
from maskcap.cli.launch import conf_folder
from maskcap.cli.train import TRAIN_SCHEMA
from maskcap.config import check_config


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", overrides=[*overrides, "paths.run=/nowhere/run"])
    use_shards(config)
    return config


def plain(node: DictConfig) -> dict:
    return OmegaConf.to_container(node)  # pyright: ignore


READS = {"_target_": SOURCE, "_partial_": True, "shards": "/s"}


def test_without_shards_nothing_changes_but_the_two_keys():
    config = composed("experiment=refcoco", "data.root=/r")
    assert "shards" not in config.data and "val_shards" not in config.data
    assert config.data.train.main.source.root == "/r"


def test_shards_alone_hold_some_images_out():
    for group in ("experiment=sa1b", "data=shards"):
        config = composed(group, "data.shards=/s")
        train, val = plain(config.data.train), plain(config.data.val)
        assert train["main"]["source"]["source"] == val["main"]["source"]["source"] == READS
        assert (train["main"]["source"]["part"], val["main"]["source"]["part"]) == ("train", "val")
        assert val["main"]["source"]["fraction"] == 0.02
        check_config(config, TRAIN_SCHEMA)


def test_known_files_still_validate():
    config = composed("experiment=refcoco", "data.root=/r", "data.shards=/s")
    assert plain(config.data.train) == {"main": {"source": READS}}
    assert config.data.val.main.source.root == "/r"
    check_config(config, TRAIN_SCHEMA)


def test_validation_on_shards_needs_no_files():
    config = composed("experiment=refcoco", "data.shards=[/s,/t]", "data.val_shards=memory://v")
    assert config.data.train.main.source.shards == ["/s", "/t"]
    assert config.data.val.main.source.shards == "memory://v"
    assert "root" not in config.data and "dataset" not in config.data
    check_config(config, TRAIN_SCHEMA)


def test_the_demo_and_overfit_take_shards():
    for overrides in (["data.shards=/s"], ["experiment=sa1b", "debug=overfit", "data.shards=/s"]):
        check_config(composed(*overrides), TRAIN_SCHEMA)
    for group in ("experiment=sa1b", "data=shards"):
        overfit = composed(group, "debug=overfit", "data.shards=/s")
        assert overfit.data.val == overfit.data.train
        check_config(overfit, TRAIN_SCHEMA)


def test_a_part_held_out_of_the_files_is_not_trusted_to_be_missing_from_the_shards():
    data = composed("experiment=sa1b", "data.root=/r", "data.shards=/s").data
    assert data.val.main.source.source.shards == data.train.main.source.source.shards == "/s"
    assert (data.train.main.source.part, data.val.main.source.part) == ("train", "val") and "root" not in data


def test_the_log_says_what_is_replaced(caplog):
    with caplog.at_level("INFO"):
        composed("data=mixture", "data.root=/r", "data.shards=/s")
    assert "replaces a mixture of ['refcoco', 'refcoco_plus', 'osprey']" in caplog.text
    assert "validation: as configured" in caplog.text
