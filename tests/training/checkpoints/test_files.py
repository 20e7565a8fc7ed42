from __future__ import annotations

import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskcap.durable import host_tag
from maskcap.errors import CheckpointError
from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.checkpoints.manifest import read_manifest
from maskcap.training.checkpoints.reading import newest_good, read_checkpoint

Content = Callable[..., dict[str, Any]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(content: Content, tmp_path: Path):
    path = tmp_path / "new" / "last.ckpt"
    given: dict[str, Any] = content(3) | {"values": {"a": [1, 2.5, "x", None, True]}}
    given["state_dict"] |= {"empty": torch.zeros(0, 4), "sliced": torch.arange(12).view(3, 4)[:, 1:3]}
    given["state_dict"] |= {"flag": torch.tensor(True), "wide": torch.ones(1, dtype=torch.complex64)}
    CheckpointFiles().save_checkpoint(given, path)
    loaded = CheckpointFiles().load_checkpoint(path, weights_only=False)
    assert loaded.keys() == given.keys() and loaded["values"] == given["values"]
    assert loaded["state_dict"].keys() == given["state_dict"].keys()
    for name, tensor in given["state_dict"].items():
        assert loaded["state_dict"][name].dtype == tensor.dtype and torch.equal(loaded["state_dict"][name], tensor)
    assert torch.equal(loaded["optimizer_states"][0]["m"], given["optimizer_states"][0]["m"])


def test_tied_weights_are_stored_once(saved: Callable[..., Path]):
    path = saved(2)
    manifest = read_manifest(path)
    assert manifest is not None and manifest.aliases == {"head": "table"}
    stored = load_file(path.with_name(manifest.weights.name))
    assert sorted(stored) == ["half", "scale", "table"]
    loaded = read_checkpoint(path)["state_dict"]
    assert loaded["head"] is loaded["table"]


def test_data_files_lie_beside_and_go_with_their_manifest(saved: Callable[..., Path]):
    path = saved(1)
    first = names(path.parent)
    assert [each.rpartition(".")[2] for each in first] == ["pt", "safetensors", "ckpt"]
    assert first[0].startswith("last.1-") and path.stat().st_size < 2000
    saved(2)
    assert len(names(path.parent)) == 3 and not set(first[:2]) & set(names(path.parent))
    best = saved(2, "best")
    assert len(names(path.parent)) == 6
    CheckpointFiles().remove_checkpoint(path)
    assert names(path.parent)[0].startswith("best.2-") and len(names(path.parent)) == 3
    CheckpointFiles().remove_checkpoint(best)
    CheckpointFiles().remove_checkpoint(best)  # gone already
    assert names(path.parent) == []


def test_leftovers_of_dead_processes_go_at_the_next_save(saved: Callable[..., Path]):
    folder = saved(1).parent
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine, other = host_tag(), "00000000"
    gone = [f"last.7-{mine}_{dead.pid}_0123abcd.pt", f".last.7-{mine}_{dead.pid}_0123abcd.safetensors.tmp"]
    gone += [f".last.ckpt.7-{mine}_{dead.pid}_0123abcd.ckpt.tmp", f"last.6-{mine}_{os.getpid()}_0123abcd.pt"]
    gone += [f"last.5-{other}_1_0123abcd.pt"]
    kept = [f"last.7-{mine}_{os.getppid()}_0123abcd.pt", f"last.7-{other}_1_0123abcd.pt", "last.7-notes.pt", "my.pt"]
    for name in [*gone, *kept]:
        (folder / name).write_text("x")
    os.utime(folder / gone[-1], (0, 0))  # another machine's, not written to for a day
    saved(2)
    there = names(folder)
    assert set(kept) < set(there) and not set(gone) & set(there) and len(there) == len(kept) + 3


def test_values_that_could_not_be_loaded_again_are_refused_at_once(content: Content, saved: Callable[..., Path]):
    path = saved(1)
    before = names(path.parent)
    with pytest.raises(CheckpointError, match=r"would hold pathlib.*give\s+state_dict\(\) of your callback"):
        CheckpointFiles().save_checkpoint(content(2) | {"callbacks": {"mine": path}}, path)
    assert names(path.parent) == before and newest_good(path.parent) == path


def test_only_local_folders(content: Content):
    with pytest.raises(CheckpointError, match="local folders only"):
        CheckpointFiles().save_checkpoint(content(1), "s3://bucket/last.ckpt")


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writing more is an OSError, as on a full disk (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# with 10 numbers the weights are 0.4 kB, everything else 1.7 kB and the manifest 0.6 kB
@pytest.mark.parametrize("limit", [200, 500, 20_000])
def test_a_save_that_fails_leaves_the_previous_one(
    limit: int, content: Content, saved: Callable[..., Path], caplog: pytest.LogCaptureFixture
):
    path = saved(1)
    before, files = names(path.parent), CheckpointFiles()
    numbers = 10 if limit < 1000 else 10_000
    with no_file_larger_than(limit), caplog.at_level(logging.ERROR):
        files.save_checkpoint(content(2, numbers), path)
        files.save_checkpoint(content(2, numbers), path.with_name("best.ckpt"))
    assert names(path.parent) == before and newest_good(path.parent) == path
    assert files.failures == 2 and files.last_error is not None
    first, second = (record.getMessage() for record in caplog.records)
    assert f"{path} could not be saved: File too large; the previous checkpoint is whole" in first
    assert "goes on WITHOUT a new checkpoint (1 failed so far)" in first and "there is no previous one" in second
    with caplog.at_level(logging.WARNING):
        files.remove_checkpoint(path)  # as ModelCheckpoint does once the next one is there
    assert path.is_file() and "is kept: the checkpoint that was to replace it" in caplog.text
    files.save_checkpoint(content(3), path)
    assert files.last_error is None and files.failures == 2 and read_checkpoint(path)["global_step"] == 3


def test_a_manifest_that_cannot_be_written(content: Content, saved: Callable[..., Path]):
    path = saved(1)
    before, files = names(path.parent), CheckpointFiles()
    big = {f"layers.{i}.weight": torch.zeros(1) for i in range(300)}
    tied = content(2)["state_dict"] | {name: big["layers.0.weight"] for name in big}  # a line of the manifest each
    with no_file_larger_than(10_000):
        files.save_checkpoint({"global_step": 2, "state_dict": tied}, path)
    assert files.failures == 1 and names(path.parent) == before


def test_a_save_that_fails_can_end_the_run(content: Content, saved: Callable[..., Path]):
    path, files = saved(1), CheckpointFiles(on_error="raise")
    with no_file_larger_than(200), pytest.raises(CheckpointError, match="File too large; the previous checkpoint"):
        files.save_checkpoint(content(2), path)
    assert newest_good(path.parent) == path


def test_a_full_disk(content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs rights: {mounted.stderr.decode().strip()}")
    try:
        path, files = tmp_path / "last.ckpt", CheckpointFiles()
        files.save_checkpoint(content(1, 5000), path)
        before = names(tmp_path)
        files.save_checkpoint(content(2, 30_000), path)
        assert files.last_error is not None and "No space left on device" in caplog.text
        assert names(tmp_path) == before and newest_good(tmp_path) == path
        files.save_checkpoint(content(3, 5000), path)  # there is room again: nothing was left
        assert files.last_error is None and read_checkpoint(path)["global_step"] == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_data_that_another_manifest_names_stay(saved: Callable[..., Path]):
    """A copy of a manifest, and what one was a link to."""
    path = saved(1)
    copied = path.with_name("kept.ckpt")
    copied.write_bytes(path.read_bytes())
    best = saved(2, "best")
    path.unlink()
    path.symlink_to(best.name)
    saved(3)
    assert [read_checkpoint(each)["global_step"] for each in (copied, best, path)] == [1, 2, 3]
    CheckpointFiles().remove_checkpoint(copied)
    assert len(names(path.parent)) == 6
