"""Fixtures of the models' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

T = TypeVar("T")


@pytest.fixture
def saved_bytes() -> Callable[[Callable[[], T]], tuple[T, int]]:
    """`saved_bytes(run)` → what `run` returns, and the size of what autograd keeps for its backward."""

    def measure(run: Callable[[], T]) -> tuple[T, int]:
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = run()
        return out, sum(storage.nbytes() for storage in storages.values())

    return measure
