"""Tensors → a safetensors file, written tensor by tensor through any file object; bytes, hashes, ties.

The library's own writer gives an error without a number, which a full disk must not have, and reading its file again
for a hash costs as much as writing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def storable(value: Any) -> bool:
    """Whether it is a dense tensor of a type that safetensors files hold."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype in _NAMES


def find_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names whose tensor is the very one of an earlier name → that name: tied weights."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return aliases


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The numbers in row-major order, copied to the CPU where they are elsewhere."""
    flat = whole(tensor).detach().cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; of one that is sharded over ranks all of it, for which every rank must call this."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def sha256_of(tensor: torch.Tensor) -> str:
    """Of its numbers' bytes, in hex digits."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def write_tensors(file: BinaryIO | Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """A safetensors file's bytes into `file`, which needs `write` alone. Raises OSError."""
    # wide types first, as the format asks: every tensor then starts at a multiple of its width
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, start, end in _ranges(names, tensors):
        tensor = tensors[name]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(tensor_bytes(tensors[name]))


def _ranges(names: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, int, int]]:
    start = 0
    for name in names:
        end = start + tensors[name].numel() * tensors[name].element_size()
        yield name, start, end
        start = end
