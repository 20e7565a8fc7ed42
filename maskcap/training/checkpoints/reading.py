"""Reading a checkpoint, ours or one of Lightning's own; checking it; the newest good one of a folder."""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.manifest import DataFile, Manifest, read_manifest

log = logging.getLogger(__name__)

_CHUNK = 1 << 22  # bytes
_READS = 3  # of a checkpoint that is replaced while it is read

T = TypeVar("T")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The checkpoint as Lightning knows it, verified; `frozen_weights` tells of what it does not hold (see frozen.py).

    No code of the file is run: weights are safetensors, everything else is loaded with weights_only. Raises
    CheckpointError: missing or damaged, with the newest good one beside it; holding anything but tensors and plain
    values.
    """
    path = Path(path)
    try:
        return _unless_replaced(path, lambda manifest: _read(path, manifest, map_location))
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_instead_of(path)}") from error.__cause__


def verify(path: str | Path) -> int:
    """That a checkpoint is whole: its data files have the sizes and hashes that it says. Its optimiser step.

    One of Lightning's own is read whole. Raises CheckpointError naming the file and what is wrong with it.
    """
    path = Path(path)

    def step(manifest: Manifest | None) -> int:
        """Of the checkpoint, verified."""
        if manifest is None:
            return int(load_plain(path).get("global_step", 0))
        _verify(path, manifest)
        return manifest.step

    return _unless_replaced(path, step)


def newest_good(folder: str | Path) -> Path | None:
    """The whole checkpoint of the most steps in a folder, of equal steps the one saved last; None without any.

    Each newer one that is damaged is named in the log, as a warning.
    """
    for path in by_age(Path(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("passed over: %s", error)
        else:
            return path
    return None


def by_age(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first as `newest_good` counts; unreadable ones come first, to be named."""
    found = [path for path in folder.glob("*.ckpt") if path.is_file()] if folder.is_dir() else []
    return sorted(found, key=_age, reverse=True)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file's tensors, on the CPU. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def load_plain(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A mapping that torch.save wrote, of tensors and plain values. Raises CheckpointError for anything else."""
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        what = unsafe_names(path)
        if what:
            raise CheckpointError(
                f"{path} holds {', '.join(what[:3])}: it was not loaded, because anything but tensors and plain values "
                "can run code"
            ) from error
        raise CheckpointError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} is not a readable checkpoint: it holds a {type(loaded).__name__}")
    return loaded


def unsafe_names(path: Path) -> list[str]:
    """Classes and functions that a file of torch.save names, and that weights_only refuses; nothing is run."""
    try:
        if not zipfile.is_zipfile(path):
            return []
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # a damaged file makes it raise almost anything
        return []


def _unless_replaced(path: Path, read: Callable[[Manifest | None], T]) -> T:
    """Read what a manifest names; once more where a run that is at work has replaced both meanwhile."""
    manifest = read_manifest(path)
    for _ in range(_READS):
        try:
            return read(manifest)
        except CheckpointError:
            before, manifest = manifest, read_manifest(path)
            if manifest == before:
                raise
    return read(manifest)


def _read(path: Path, manifest: Manifest | None, map_location: Any) -> dict[str, Any]:
    if manifest is None:
        return load_plain(path, map_location)
    _verify(path, manifest)
    checkpoint = load_plain(path.resolve().with_name(manifest.state.name), map_location)
    weights = load_tensors(path.resolve().with_name(manifest.weights.name))
    lost = sorted(set(manifest.aliases.values()) - set(weights))
    if lost:
        raise CheckpointError(f"{path} is damaged: it names {lost[0]}, which its weights lack")
    weights |= {alias: weights[name] for alias, name in manifest.aliases.items()}
    checkpoint["state_dict"] = weights | checkpoint.pop("other_state", {})
    if manifest.frozen:
        checkpoint["frozen_weights"] = dict(manifest.frozen)
    return checkpoint


def _verify(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        _verify_file(path.resolve().with_name(file.name), file, path)


def _verify_file(place: Path, facts: DataFile, manifest: Path) -> None:
    """Raises CheckpointError."""
    fault = f"{place}, of the checkpoint {manifest}, "
    try:
        size = place.stat().st_size
        if size != facts.size:
            raise CheckpointError(f"{fault}is damaged: {size} bytes, not {facts.size}")
        hashed = hashlib.sha256()
        with open(place, "rb") as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
    except FileNotFoundError:
        raise CheckpointError(f"{fault}is missing: copy a checkpoint with the files that it names") from None
    except OSError as error:
        raise CheckpointError(f"{fault}cannot be read: {error.strerror or error}") from error
    if hashed.hexdigest() != facts.sha256:
        raise CheckpointError(f"{fault}is damaged: its sha256 is not the one that was written")


def _age(path: Path) -> tuple[float, float]:
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            return manifest.step, manifest.saved
        return int(load_plain(path).get("global_step", 0)), path.stat().st_mtime
    except (CheckpointError, OSError):
        return float("inf"), 0.0


def _instead_of(path: Path) -> str:
    """What to take instead of a damaged checkpoint, a sentence."""
    for other in by_age(path.parent):
        if other.name != path.name:
            try:
                return f"The newest good checkpoint beside it is {other} (step {verify(other)})"
            except CheckpointError:
                continue
    return "There is no good checkpoint beside it"
