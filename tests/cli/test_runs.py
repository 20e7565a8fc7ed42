from __future__ import annotations

import logging
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.cli.runs import changed_keys, run_config, warn_of_changes
from maskcap.errors import CheckpointError

RUN = {"seed": 0, "model": {"size": 1, "rates": {}}, "data": {"root": "${paths.data}", "batch": 2}, "module": {}}
RUN |= {"paths": {"data": "a"}, "trainer": {"max_epochs": 1}}


def test_changed_keys_are_those_that_shape_the_model_and_its_training():
    today = {"seed": 1, "model": {"size": 1, "rates": {"x": 1.0}}, "data": {"root": "${paths.data}"}, "module": {}}
    today |= {"paths": {"data": "b"}, "trainer": {"max_epochs": 2}, "loops": {"a": {"weight": 2}}}
    changed = changed_keys(OmegaConf.create(RUN), OmegaConf.create(today))
    assert changed == ["seed", "model.rates", "data.batch", "model.rates.x", "loops.a.weight"]
    assert changed_keys(OmegaConf.create(RUN), OmegaConf.create(RUN)) == []


def test_resuming_with_another_configuration_names_ten_keys_and_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    warn_of_changes(checkpoint, OmegaConf.create(RUN))  # no config.yaml: nothing to compare
    OmegaConf.save(OmegaConf.create(RUN), tmp_path / "config.yaml")
    warn_of_changes(checkpoint, OmegaConf.create(RUN))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_of_changes(checkpoint, OmegaConf.create(RUN | {"loops": {f"k{i}": i for i in range(12)}}))
    assert "loops.k0, " in caplog.text and "loops.k9 and 2 more differ" in caplog.text
    assert "loops.k10" not in caplog.text and str(checkpoint) in caplog.text


def test_a_config_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(CheckpointError, match="not the configuration of a training run"):
        run_config(tmp_path / "last.ckpt")
