"""What a `.ckpt` file of ours is: a small JSON manifest that names the data files beside it, with size and sha256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskcap.errors import CheckpointError

FORMAT = "maskcap checkpoint"
VERSION = 1
_LIMIT = 64 << 20  # bytes; a manifest names parameters, and holds none


@dataclass(frozen=True)
class DataFile:
    """A file in the manifest's own folder; size in bytes, sha256 in hex digits."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FrozenWeight:
    """A parameter that was not trained and is not stored: what it must be, and where it came from.

    source: the model's folder or hub id, "" where it is not known. dtype: as torch names it, "bfloat16".
    """

    sha256: str
    dtype: str
    shape: tuple[int, ...]
    source: str = ""


@dataclass(frozen=True)
class Manifest:
    """weights: safetensors. state: everything else, torch.save. step: optimiser steps. saved: seconds since 1970.

    aliases: names of tied weights → the name that they are stored under. frozen: name → what it must be.
    """

    step: int
    epoch: int
    saved: float
    weights: DataFile
    state: DataFile
    aliases: Mapping[str, str] = field(default_factory=dict)
    frozen: Mapping[str, FrozenWeight] = field(default_factory=dict)

    @property
    def files(self) -> tuple[DataFile, DataFile]:
        """The data files."""
        return self.weights, self.state

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, "version": VERSION} | asdict(self), indent=1) + "\n"


def read_manifest(path: Path) -> Manifest | None:
    """None when the file is none of ours (one of Lightning's own, say).

    Raises CheckpointError when it cannot be read, is of a newer version, or names files outside its folder.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_LIMIT) if file.read(1) == b"{" else None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if text is None:
        return None
    try:
        values = json.loads(b"{" + text)
        if values.pop("format") != FORMAT:
            return None
        version = values.pop("version")
        if version == VERSION:
            return _from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is a damaged checkpoint manifest ({error!r}): take another checkpoint"
        ) from error
    raise CheckpointError(f"{path} has version {version} of the format, this maskcap reads {VERSION}: use a newer one")


def _from_json(values: dict[str, Any]) -> Manifest:
    values |= {"step": int(values["step"]), "epoch": int(values["epoch"]), "saved": float(values["saved"])}
    values |= {part: _data_file(**values[part]) for part in ("weights", "state")}
    frozen = {name: each | {"shape": tuple(each["shape"])} for name, each in values["frozen"].items()}
    values["frozen"] = {name: FrozenWeight(**each) for name, each in frozen.items()}
    return Manifest(**values)


def _data_file(name: str, size: int, sha256: str) -> DataFile:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} lies outside the folder")
    return DataFile(name, int(size), str(sha256))
