from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.checkpoints.frozen import FrozenHashes, fill_in_frozen, frozen_sources
from maskcap.training.checkpoints.manifest import read_manifest
from maskcap.training.checkpoints.reading import read_checkpoint


class Joined(nn.Module):
    """A frozen backbone that knows where it came from, with a buffer; a head that trains and one that does not."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), nn.BatchNorm1d(4))
            self.backbone.config = SimpleNamespace(_name_or_path="hub/backbone")  # type: ignore[assignment]
            self.backbone.requires_grad_(False)
            self.head, self.other = nn.Linear(4, 2), nn.Linear(2, 2)
        self.other.requires_grad_(False)
        self.tied = self.backbone[0]


def save(module: nn.Module, path: Path, weights: Any = "trained") -> None:
    content = {"global_step": 1, "state_dict": module.state_dict(), "frozen_sources": frozen_sources(module)}
    CheckpointFiles(weights).save_checkpoint(content, path)


def load(module: nn.Module, path: Path) -> None:
    checkpoint = read_checkpoint(path)
    fill_in_frozen(checkpoint, module)
    module.load_state_dict(checkpoint["state_dict"])  # strict


def test_frozen_weights_are_named_and_not_stored(tmp_path: Path):
    module = Joined()
    save(module, tmp_path / "last.ckpt")
    manifest = read_manifest(tmp_path / "last.ckpt")
    assert manifest is not None
    frozen = manifest.frozen
    assert frozen["backbone.0.weight"].sha256 == frozen["tied.weight"].sha256
    assert frozen["backbone.0.weight"].source == "hub/backbone" and frozen["other.weight"].source == ""
    assert (frozen["backbone.0.bias"].dtype, frozen["backbone.0.bias"].shape) == ("bfloat16", (4,))
    stored = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    buffers = [f"backbone.1.{name}" for name in ("num_batches_tracked", "running_mean", "running_var")]
    assert sorted(stored) == [*buffers, "head.bias", "head.weight"]

    again = Joined()
    nn.init.zeros_(again.head.weight)
    load(again, tmp_path / "last.ckpt")
    assert torch.equal(again.head.weight, module.head.weight)


def test_everything_is_stored_unless_asked(tmp_path: Path):
    save(Joined(), tmp_path / "last.ckpt", "everything")
    other = Joined(seed=1)
    load(other, tmp_path / "last.ckpt")
    assert torch.equal(other.other.weight, Joined().other.weight)
    assert "frozen_sources" not in read_checkpoint(tmp_path / "last.ckpt")


def test_other_frozen_weights_are_refused_by_name(tmp_path: Path):
    save(Joined(), tmp_path / "last.ckpt")
    message = r"backbone.0.weight is frozen, not in the checkpoint, and another one here: sha256 \w{12}… then"
    with pytest.raises(CheckpointError, match=rf"{message}.*\(then loaded from hub/backbone\): build the model with"):
        load(Joined(seed=1), tmp_path / "last.ckpt")
    wider = Joined()
    wider.backbone[0].float()
    with pytest.raises(CheckpointError, match=re.escape("bfloat16 (4, 4) then, float32 (4, 4) now")):
        load(wider, tmp_path / "last.ckpt")
    without = Joined()
    del without.other
    with pytest.raises(CheckpointError, match=r"of a model with other.weight, which this one has not"):
        load(without, tmp_path / "last.ckpt")


def test_hashes_are_made_again_only_for_what_was_written_to():
    hashes, weight = FrozenHashes(), torch.zeros(3)
    (first,) = hashes.of({"a": weight}, {}).values()
    assert hashes.of({"a": weight.detach()}, {})["a"] is first
    weight += 1
    assert hashes.of({"a": weight}, {})["a"].sha256 != first.sha256
