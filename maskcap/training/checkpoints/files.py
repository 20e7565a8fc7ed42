"""`CheckpointFiles`: Lightning saves and loads checkpoints through it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from maskcap.durable import sync_folder
from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.frozen import FrozenHashes
from maskcap.training.checkpoints.manifest import Manifest, read_manifest
from maskcap.training.checkpoints.reading import read_checkpoint, unsafe_names
from maskcap.training.checkpoints.tensors import find_aliases, storable, write_tensors
from maskcap.training.checkpoints.writing import nonce, remove_data, remove_leftovers, write_data, write_manifest

log = logging.getLogger(__name__)


class CheckpointFiles(CheckpointIO):
    """A checkpoint is a manifest (the `.ckpt` file) and two data files beside it, `<name>.<step>-<nonce>.safetensors`
    with the weights and `….pt` with everything else; at any moment of a save the previous one is whole.

    weights: "everything", or "trained": frozen parameters are left out, and named with their hash and source; loading
    checks that the model has them. on_error: when a save fails (disk full, …), "continue" with an error in the log,
    or "raise" CheckpointError. While a save is in progress the folder needs room for the checkpoint twice.
    failures: saves that failed; last_error: of the last save, None when it went well.
    """

    def __init__(
        self,
        weights: Literal["everything", "trained"] = "everything",
        on_error: Literal["continue", "raise"] = "continue",
    ) -> None:
        self.weights = weights
        self.on_error = on_error
        self.failures = 0
        self.last_error: OSError | None = None
        self._hashes = FrozenHashes()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write Lightning's checkpoint at `path`; rank 0 alone calls it.

        Raises CheckpointError: for values that could not be loaded again, for a URL, and with on_error="raise".
        """
        if storage_options is not None or "://" in str(path):
            raise CheckpointError(f"{path}: checkpoints are written to local folders only, without storage options")
        path = Path(path)
        tag = f"{int(checkpoint.get('global_step', 0))}-{nonce()}"
        try:
            _save(dict(checkpoint), path, tag, self._hashes if self.weights == "trained" else None)
        except OSError as error:
            _remove_unnamed(path, tag)
            self._failed(path, error)
        except BaseException:
            _remove_unnamed(path, tag)
            raise
        else:
            self.last_error = None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_checkpoint`; never runs code of a file, whatever weights_only says. Raises CheckpointError."""
        return read_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """The manifest, then its data files. Kept, with a warning, while the save that was to replace it failed."""
        path = Path(path)
        if self.last_error is not None:
            log.warning("%s is kept: the checkpoint that was to replace it could not be saved", path)
        elif path.is_file():
            manifest = read_manifest(path)
            path.unlink()
            sync_folder(str(path.parent))
            remove_data(path.parent, manifest)

    def teardown(self) -> None:
        """The end of a run says it again when its last save failed."""
        if self.last_error is not None:
            log.error("the last save of this run failed, of %d that did: %s", self.failures, self.last_error)

    def _failed(self, path: Path, error: OSError) -> None:
        self.failures += 1
        self.last_error = error
        reason = f"{path} could not be saved: {error.strerror or error}"
        before = "the previous checkpoint is whole" if path.is_file() else "there is no previous one"
        if self.on_error == "raise":
            raise CheckpointError(f"{reason}; {before}. Make room, then resume") from error
        log.error(
            "%s; %s. Training goes on WITHOUT a new checkpoint (%d failed so far): make room on the disk",
            reason,
            before,
            self.failures,
        )


def _save(checkpoint: dict[str, Any], path: Path, tag: str, hashes: FrozenHashes | None) -> None:
    """Raises OSError, and CheckpointError for values that could not be loaded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.with_name(f"{path.name.removesuffix('.ckpt')}.{tag}")
    state_dict: dict[str, Any] = dict(checkpoint.pop("state_dict", {}))
    sources: Mapping[str, str] = checkpoint.pop("frozen_sources", {})
    frozen = {}
    if hashes is not None:
        frozen = hashes.of({name: state_dict.pop(name) for name in sources if name in state_dict}, sources)
    tensors: dict[str, torch.Tensor] = {name: value for name, value in state_dict.items() if storable(value)}
    aliases = find_aliases(tensors)
    checkpoint["other_state"] = {name: value for name, value in state_dict.items() if name not in tensors}

    stored = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    weights_file = write_data(Path(f"{stem}.safetensors"), lambda file: write_tensors(file, stored))
    state_file = write_data(Path(f"{stem}.pt"), lambda file: torch.save(checkpoint, file), _check_loadable)
    step, epoch = int(checkpoint.get("global_step", 0)), int(checkpoint.get("epoch", 0))
    manifest = Manifest(step, epoch, time.time(), weights_file, state_file, aliases, frozen)

    previous = _manifest_or_none(path)
    write_manifest(path, manifest.to_json(), tag)
    remove_data(path.parent, previous)
    remove_leftovers(path.parent)


def _manifest_or_none(path: Path) -> Manifest | None:
    try:
        return read_manifest(path) if path.is_file() else None
    except CheckpointError:
        return None


def _remove_unnamed(path: Path, tag: str) -> None:
    """The files of a save that failed, unless it failed after its manifest was in place already."""
    manifest = _manifest_or_none(path)
    named = [file.name for file in manifest.files] if manifest is not None else []
    with suppress(OSError):
        for file in path.parent.glob(f"*{tag}*"):
            if file.name not in named:
                file.unlink(missing_ok=True)


def _check_loadable(path: Path) -> None:
    unsafe = unsafe_names(path)
    if unsafe:
        raise CheckpointError(
            f"{path.parent}: a checkpoint would hold {', '.join(unsafe[:3])}, which could not be loaded again: give "
            "state_dict() of your callback, loop or data module tensors and plain values only"
        )
