"""What cannot be sharded is refused before a step; which layers are. Runs: tests/training/test_ranks_agree.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from maskcap.errors import ConfigError
from maskcap.loops.base import Loop
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.module import MaskCaptionModule
from maskcap.training.strategies import is_sharded
from maskcap.training.strategies.fsdp import ShardedStrategy, check_shardable
from maskcap.training.strategies.sharding import layers_of


def test_what_cannot_be_sharded_is_refused(tiny_model: MaskCaptionModel) -> None:
    loops: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask(), "cycle": Cycle()}
    with pytest.raises(ConfigError, match=r"loops\.cycle does not go with trainer=fsdp.*weight=0"):
        check_shardable(MaskCaptionModule(tiny_model, loops, meteor=False), CheckpointFiles())
    module = MaskCaptionModule(tiny_model, {**loops, "cycle": Cycle(weight=0.0)}, meteor=False)
    check_shardable(module, CheckpointFiles())
    with pytest.raises(ConfigError, match="weights=everything"):
        check_shardable(module, CheckpointFiles(weights="trained"))


def test_only_the_outermost_stacks_are_layers() -> None:
    inner = nn.Module()
    inner.layers = nn.ModuleList([nn.Linear(1, 1)])
    outer = nn.Module()
    outer.blocks, outer.others = nn.ModuleList([inner, nn.Linear(1, 1)]), nn.ModuleList([nn.Linear(1, 1)])
    assert layers_of([outer, nn.Linear(1, 1)]) == list(outer.blocks)


def test_a_strategy_says_whether_it_shards() -> None:
    assert is_sharded(SimpleNamespace(strategy=ShardedStrategy()))
    assert not is_sharded(SimpleNamespace(strategy=None))
