"""`trainer=fsdp`: weights, gradients and optimizer state are shared out over the ranks (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy

from maskcap.errors import CheckpointError, ConfigError
from maskcap.training.strategies.sharding import (
    full_optimizer_state,
    full_state_dict,
    gather,
    layers_of,
    like_optimizer,
    like_shards,
    reshard,
    shard,
)


class ShardedStrategy(ModelParallelStrategy):
    """Data parallel with sharded weights: every rank keeps 1/ranks of them, and gathers a layer when it runs.

    Checkpoints hold whole weights and optimizer state, the same as those of one rank or of DDP, and each resumes the
    other's; rank 0's main memory must have room for them. Validation and tests gather all weights, so that captions of
    different lengths keep no rank waiting. All parts have a gradient at every step, of zeros where nothing in the
    global batch asked for them (no mask at all, say): AdamW then moves them by its averages and weight decay, where one
    rank leaves them as they are. timeout: seconds after which a collective that a rank does not join fails.
    """

    def __init__(self, timeout: float = 1800.0) -> None:
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(seconds=timeout),
        )

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size = self.world_size  # Lightning's "auto" is the number of nodes

    def shard_weights(self, module: L.LightningModule) -> None:
        """For `configure_model`. Raises ConfigError for what cannot be sharded."""
        check_shardable(module, self.checkpoint_io)
        model: Any = module.model
        towers = [model.vlm, model.segmenter.model.vision_encoder]
        shard(module, layers_of(towers), self.device_mesh["data_parallel"])

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on rank 0; every rank must call it."""
        assert self.lightning_module is not None
        return full_state_dict(self.lightning_module, self.is_global_zero)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state, on rank 0; every rank must call it."""
        return full_optimizer_state(getattr(optimizer, "_optimizer", optimizer), self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """By our CheckpointIO, on rank 0."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """By our CheckpointIO, on every rank. Raises CheckpointError for one that leaves frozen weights out."""
        checkpoint = ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)
        if checkpoint.get("frozen_weights"):
            raise CheckpointError(
                f"{checkpoint_path} leaves frozen weights out (checkpoints.weights=trained), which cannot be compared "
                "where they are sharded: resume it with trainer=ddp, or save with checkpoints.weights=everything"
            )
        return checkpoint

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizers' state to `load_optimizer_state_dict`."""
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """This rank's parts of the whole weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict(keep_vars=True)
        self.lightning_module.load_state_dict(like_shards(checkpoint["state_dict"], own), strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """This rank's parts of the whole state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(like_optimizer(state, optimizer))

    def on_validation_start(self) -> None:
        """Gathers all weights."""
        self._gather()

    def on_validation_end(self) -> None:
        """Gives them back."""
        self._reshard()

    def on_test_start(self) -> None:
        """As for validation."""
        self._gather()

    def on_test_end(self) -> None:
        """As for validation."""
        self._reshard()

    def _gather(self) -> None:
        assert self.lightning_module is not None
        gather(self.lightning_module)

    def _reshard(self) -> None:
        assert self.lightning_module is not None
        reshard(self.lightning_module)


def check_shardable(module: Any, checkpoint_io: Any) -> None:
    """Raises ConfigError for a loop whose steps do not run the same layers on every rank, for compiled parts, and for
    checkpoints without frozen weights."""
    for name, loop in module.active_loops.items():
        if not loop.same_on_every_rank:
            raise ConfigError(
                f"loops.{name} does not go with trainer=fsdp: its ranks run different layers (captions of different "
                "lengths, a frozen copy), and would wait for each other for ever. Use trainer=ddp, or "
                f"loops.{name}.weight=0, which leaves it to validation"
            )
    if any(isinstance(part, torch._dynamo.OptimizedModule) for part in module.modules()):
        raise ConfigError("mask_caption.compile=true does not go with trainer=fsdp: leave it out, or use trainer=ddp")
    if getattr(checkpoint_io, "weights", "everything") != "everything":
        raise ConfigError("trainer=fsdp saves whole checkpoints only: checkpoints.weights=everything")
