"""Gradients that are set aside, put back, and averaged over ranks without DDP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import nn

from maskcap.training.ranks import sum_over_ranks, world_size

Gradients: TypeAlias = list[torch.Tensor | None]

_BUCKET = 1 << 23  # numbers in one all-reduce: 32 MiB in float32


def take_gradients(parameters: Sequence[nn.Parameter]) -> Gradients:
    """The gradients, which the parameters then have no more; nothing is copied."""
    taken: Gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def add_gradients(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Put them back, added to those that are there; nothing is copied where there are none."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean over ranks, as DDP with find_unused_parameters makes it: a rank without one counts as zero, a parameter
    that no rank used keeps none. Every rank must call it, with the same parameters. Alone: nothing."""
    if world_size() == 1:
        return
    device = parameters[0].device
    used = sum_over_ranks(torch.tensor([int(p.grad is not None) for p in parameters], device=device)).tolist()
    bucket: list[torch.Tensor] = []
    for parameter, ranks in zip(parameters, used, strict=True):
        if not ranks:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and (bucket[0].dtype != parameter.grad.dtype or sum(map(torch.numel, bucket)) > _BUCKET):
            _average(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _average(bucket)


def _average(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
