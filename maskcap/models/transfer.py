"""Host → device copies that nothing waits for, and the one way back, which waits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def to_device(tensors: Sequence[torch.Tensor], device: torch.device | str) -> list[torch.Tensor]:
    """The same host tensors on `device`, all of one dtype, in order.

    On CUDA they travel together: one copy from page-locked memory, which the host does not wait for (a copy from
    ordinary memory waits for everything that the device has still to do). The results are views of that one copy.
    """
    target = torch.device(device)
    if target.type != "cuda":
        return [tensor.to(target) for tensor in tensors]
    packed = torch.cat([tensor.reshape(-1) for tensor in tensors]).pin_memory().to(target, non_blocking=True)
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def take(rows: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Rows by host indices, without a wait; the tensor itself when they are all rows in order."""
    if list(indices) == list(range(rows.shape[0])):
        return rows
    return rows.index_select(0, to_device([torch.tensor(list(indices), dtype=torch.int64)], rows.device)[0])


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's numbers on the host. Waits until the device has worked them out: at most once a step."""
    return tensor.detach().cpu().numpy()
