"""FSDP2 (torch's `fully_shard`): which parts are sharded, gathering them for a while, full state dicts of shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

STEPS = ("training_step",)  # they use the root's own weights: embeddings, head, projector, segmenter


def shard(root: nn.Module, layers: list[nn.Module], mesh: DeviceMesh) -> None:
    """Shard each layer by itself, and everything else of `root` as one, in place; again is a no-op.

    A layer's weights are gathered when it runs, forward and backward; the rest stays gathered from a step's beginning
    to the end of its backward.
    """
    if isinstance(root, FSDPModule):
        return
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for name in STEPS:
        register_fsdp_forward_method(root, name)


def layers_of(towers: Iterable[nn.Module]) -> list[nn.Module]:
    """The entries of every ModuleList called `layers`, `layer` or `blocks` of these modules that is in no other."""
    found = []
    for tower in towers:
        lists = {name: part for name, part in tower.named_modules() if isinstance(part, nn.ModuleList)}
        stacks = [name for name in lists if name.rsplit(".", 1)[-1] in ("layers", "layer", "blocks")]
        outermost = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
        found += [layer for name in outermost for layer in lists[name]]
    return found


def gather(root: nn.Module) -> None:
    """Gather all weights until `reshard`: each rank may then run what it likes. Every rank must call it."""
    # Not as inference tensors: training goes on with the same ones.
    with torch.inference_mode(False), torch.no_grad():
        for module in _sharded(root):
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()


def reshard(root: nn.Module) -> None:
    """As before `gather`."""
    for module in _sharded(root):
        module.set_reshard_after_forward(module is not root, recurse=False)
        module.reshard()


def full(value: Any, cache: dict[int, Any], keep: bool) -> Any:
    """The whole of a shard on the CPU, once for each tensor: tied weights stay one. Anything else as it is.

    keep: False for ranks that only take part: None for shards. Every rank must call it.
    """
    if not isinstance(value, DTensor):
        return value
    if id(value) not in cache:
        whole: Any = value.full_tensor().detach()
        cache[id(value)] = (value, whole.cpu() if keep else None)  # with the key, whose id is then taken
    return cache[id(value)][1]


def full_state_dict(root: nn.Module, keep: bool) -> dict[str, Any]:
    """A module's state dict of whole tensors on the CPU; empty unless `keep`. Every rank must call it."""
    cache: dict[int, Any] = {}
    state = {name: full(value, cache, keep) for name, value in root.state_dict(keep_vars=True).items()}
    return {name: _detached(value) for name, value in state.items()} if keep else {}


def full_optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """An optimizer's state dict, as one rank alone would have it, on the CPU; empty unless `keep`. Every rank must
    call it."""
    state = optimizer.state_dict()
    cache: dict[int, Any] = {}
    for number, values in state["state"].items():
        state["state"][number] = {name: full(value, cache, keep) for name, value in values.items()}
    return state if keep else {}


def like_shards(values: Mapping[str, Any], shards: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors → this rank's parts of them, for those names that are shards here; no communication."""
    return {
        name: _part(value, shards[name]) if isinstance(shards.get(name), DTensor) else value
        for name, value in values.items()
    }


def like_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimizer state dict → this rank's parts of the tensors that have their parameter's shape."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    places = dict(zip(numbers, parameters, strict=True))

    def part(number: int, value: Any) -> Any:
        """This rank's part of one entry."""
        own = places[number]
        alike = isinstance(value, torch.Tensor) and isinstance(own, DTensor) and value.shape == own.shape
        return _part(value, own) if alike and value.ndim else value

    parts = {number: {name: part(number, v) for name, v in each.items()} for number, each in state["state"].items()}
    return {**state, "state": parts}


def _part(whole: torch.Tensor, shard: DTensor) -> DTensor:
    moved = whole.to(shard.device)
    return distribute_tensor(moved, shard.device_mesh, shard.placements, src_data_rank=None)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _sharded(root: nn.Module) -> list[FSDPModule]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]
