"""What the processes of a run agree on; alone, a process agrees with itself at no cost."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Processes that train together; 1 before, or without, a process group."""
    return dist.get_world_size() if _together() else 1


def this_rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if _together() else 0


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor of one shape and dtype on every rank, on the device, without gradient; every rank must call
    it. Alone: the tensor itself."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def any_rank(flag: bool | torch.Tensor, device: torch.device | str = "cpu") -> bool:
    """Whether a rank's flag is set; every rank must call it. Waits for the device once.

    device: where the process group's collectives run (CUDA for NCCL). Alone, a plain bool waits for nothing.
    """
    if world_size() == 1:
        return bool(flag)
    return bool(sum_over_ranks(torch.as_tensor(flag, device=device).reshape(1).to(torch.int32)).item())


def gather_objects(value: Any) -> list[Any]:
    """A small picklable value of each rank, by rank; every rank must call it."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, value)
    return parts


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
