"""Freezing by name patterns, and LoRA through peft."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from maskcap.errors import ConfigError


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021) on the language model's linear layers; the defaults are Sa2VA's.

    targets: names of the linear layers, as peft's `target_modules`, looked for inside the language model only.
    """

    rank: int = 256
    alpha: int = 512
    dropout: float = 0.05
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze parameters whose name matches a shell-style pattern; returns how many numbers were frozen.

    Raises ConfigError when a pattern matches nothing: a typo would train what was meant to stay.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"freeze pattern {pattern!r} matches no parameter; names look like {names[:3]}")
    frozen = 0
    for name, parameter in module.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def add_lora(language_model: nn.Module, lora: LoRA) -> None:
    """Put LoRA adapters into the module in place; everything else in it is frozen but the embeddings."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),  # type: ignore[arg-type]
    )
    embeddings = language_model.get_input_embeddings().weight  # type: ignore[operator]
    embeddings_train = embeddings.requires_grad
    try:
        inject_adapter_in_model(config, language_model)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets={list(lora.targets)}: {error}") from error
    # peft freezes everything but the adapters; [SEG] and <vp> are new words, so their embeddings must still train
    embeddings.requires_grad_(embeddings_train)


def train_in_float32(module: nn.Module) -> None:
    """Cast what trains to float32 in place; frozen weights keep their dtype.

    AdamW's small steps vanish in bfloat16 weights. The forward then needs autocast (trainer.precision=bf16-mixed).
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trained) numbers of parameters."""
    every = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(n for n, _ in every), sum(n for n, trained in every if trained)
