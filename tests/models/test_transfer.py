"""Host → device copies."""

from __future__ import annotations

import pytest
import torch

from maskcap.models.transfer import to_device


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))],
)
def test_values_shapes_and_order_stay(device: str) -> None:
    tensors = [torch.arange(6).view(2, 3), torch.zeros(0, dtype=torch.int64), torch.tensor(7), torch.arange(4)]
    moved = to_device(tensors, device)
    assert all(a.device.type == device and torch.equal(a.cpu(), b) for a, b in zip(moved, tensors, strict=True))
    assert [a.shape for a in moved] == [b.shape for b in tensors]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nothing_waits_on_cuda() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = to_device([torch.arange(6), torch.arange(3)], "cuda")  # raises if it waits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [tensor.tolist() for tensor in moved] == [list(range(6)), list(range(3))]
