"""Weights that do not train and are not stored: their names, hashes and sources, checked against a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.manifest import FrozenWeight
from maskcap.training.checkpoints.tensors import sha256_of


class FrozenHashes:
    """Hashes of frozen weights, made once: a save would cost a second for each gigabyte that never changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], FrozenWeight]] = {}

    def of(self, weights: Mapping[str, torch.Tensor], sources: Mapping[str, str]) -> dict[str, FrozenWeight]:
        """name → what it must be when the checkpoint is loaded; `sources`: where each came from."""
        return {name: self._one(name, weight, sources.get(name, "")) for name, weight in weights.items()}

    def _one(self, name: str, weight: torch.Tensor, source: str) -> FrozenWeight:
        version = (weight.data_ptr(), weight._version)  # it changes with every write to the weight
        if name not in self._known or self._known[name][0] != version:
            self._known[name] = (version, describe_weight(weight, source))
        return self._known[name][1]


def describe_weight(weight: torch.Tensor, source: str = "") -> FrozenWeight:
    """Its hash, type and shape."""
    return FrozenWeight(sha256_of(weight), str(weight.dtype).removeprefix("torch."), tuple(weight.shape), source)


def frozen_sources(module: nn.Module) -> dict[str, str]:
    """Names of the parameters that do not train → the folder or hub id that the part around each was loaded from."""
    sources = {}
    for prefix, part in module.named_modules():
        place = getattr(getattr(part, "config", None), "_name_or_path", None)
        if place:
            sources[prefix] = str(place)
    return {
        name: next((sources[prefix] for prefix in _prefixes(name) if prefix in sources), "")
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }


def fill_in_frozen(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Put the module's own weights into the checkpoint's `state_dict` in place of those that it does not hold.

    Raises CheckpointError that names the first weight which is not what the checkpoint was made with.
    """
    expected: Mapping[str, FrozenWeight] = checkpoint.get("frozen_weights", {})
    own = dict(module.named_parameters(remove_duplicate=False)) if expected else {}
    for name, frozen in expected.items():
        if name not in own:
            raise CheckpointError(f"the checkpoint is of a model with {name}, which this one has not{_loaded(frozen)}")
        found = describe_weight(own[name], frozen.source)
        if found != frozen:
            raise CheckpointError(
                f"{name} is frozen, not in the checkpoint, and another one here: {_differ(frozen, found)}"
            )
        checkpoint["state_dict"][name] = own[name].detach()


def _differ(frozen: FrozenWeight, found: FrozenWeight) -> str:
    if (frozen.dtype, frozen.shape) != (found.dtype, found.shape):
        return f"{frozen.dtype} {frozen.shape} then, {found.dtype} {found.shape} now{_loaded(frozen)}"
    return f"sha256 {frozen.sha256[:12]}… then, {found.sha256[:12]}… now{_loaded(frozen)}"


def _loaded(frozen: FrozenWeight) -> str:
    where = f" (then loaded from {frozen.source})" if frozen.source else ""
    return f"{where}: build the model with the same pretrained weights, dtype and freezing"


def _prefixes(name: str) -> list[str]:
    """`a.b.c` → a.b, a, and "" for the whole."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
