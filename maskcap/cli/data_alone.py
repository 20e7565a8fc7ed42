"""What `maskcap check` and `maskcap shard` take of a composed configuration: its data, whole."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from maskcap.cli.from_shards import use_shards

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

SETS = ("train", "val", "test")
_OF_TRAINING = ("module", "callbacks")  # what the demo's data brings for train.py


def data_alone(config: DictConfig) -> DictConfig:
    """A copy without what the demo's data brings for training, and without training's limits; with `data.shards=…` in
    the place of the files.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(config, resolve=False)
    values = {key: value for key, value in values.items() if key not in _OF_TRAINING}
    for key in ("limit_train", "limit_val"):
        limit = values["data"].get(key)
        if limit is not None:
            log.info("data.%s=%s is for training; limit=%s would take the first records only", key, limit, limit)
            values["data"][key] = None
    alone: Any = OmegaConf.create(values)
    use_shards(alone)
    return alone
