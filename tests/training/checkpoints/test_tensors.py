from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskcap.training.checkpoints.tensors import find_aliases, sha256_of, storable, write_tensors

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
KINDS += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def test_the_library_reads_every_kind(tmp_path: Path):
    tensors = {str(kind): torch.arange(7).to(kind) for kind in KINDS}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(2, 0), "turned": torch.arange(6.0).view(2, 3).T}
    with open(tmp_path / "ours", "wb") as file:
        write_tensors(file, tensors)
    read = load_file(tmp_path / "ours")
    assert read.keys() == tensors.keys() and all(storable(tensor) for tensor in tensors.values())
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name].float(), tensor.float()), name
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").stat().st_size == pytest.approx((tmp_path / "theirs").stat().st_size, abs=200)


def test_what_such_a_file_does_not_hold():
    assert not storable("x") and not storable(torch.zeros(2, dtype=torch.complex64))
    assert not storable(torch.zeros(3).to_sparse())


def test_ties_are_the_same_numbers_in_the_same_place():
    table = torch.arange(6.0)
    tensors = {"a": table, "b": table.detach(), "part": table[:3], "turned": table.view(2, 3).T, "copy": table.clone()}
    tensors |= {"empty": torch.zeros(0), "void": torch.zeros(0)}
    assert find_aliases(tensors) == {"b": "a"}


def test_a_hash_is_of_the_numbers_in_order():
    turned = torch.arange(6.0).view(2, 3).T
    assert sha256_of(turned) == sha256_of(turned.contiguous()) != sha256_of(torch.arange(6.0))
