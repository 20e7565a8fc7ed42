"""kill −9 at random moments of saving: the newest good checkpoint is there, whole, and not older than the last one."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.checkpoints.manifest import read_manifest
from maskcap.training.checkpoints.reading import newest_good, read_checkpoint, verify
from tests.processes import join, start_ranks

KILLS = 30
NUMBERS = 250_000  # 1 MB of weights, 2 MB of optimizer


def save_for_ever(folder: str, first: int) -> None:
    """One checkpoint after the other, nothing in between: `last`, and every third time `best`."""
    files = CheckpointFiles(on_error="raise")
    for step in itertools.count(first):
        table = torch.full((NUMBERS,), float(step))
        content = {"global_step": step, "state_dict": {"table": table}, "optimizer_states": [table, table + 0.5]}
        files.save_checkpoint(content, Path(folder) / ("best.ckpt" if step % 3 == 0 else "last.ckpt"))


def steps(folder: Path) -> int:
    """The newest checkpoint's, without looking at its files."""
    manifests = [read_manifest(path) for path in folder.glob("*.ckpt")]
    return max((manifest.step for manifest in manifests if manifest is not None), default=0)


def other_file_system(folder: Path) -> Path | None:
    """A place for TMPDIR that a rename into `folder` does not reach."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shared.stat().st_dev != os.stat(folder).st_dev else None


@pytest.mark.parametrize("temporary", ["here", "elsewhere"])
def test_killed_while_saving(temporary: str, tmp_path: Path):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "tmp"
    if temporary == "elsewhere":
        place = other_file_system(tmp_path)
        if place is None:
            pytest.skip("there is no second file system at /dev/shm")
        elsewhere = place / f"maskcap-test-{os.getpid()}"
    elsewhere.mkdir()
    moments = np.random.default_rng(0).uniform(0, 0.03, KILLS)
    leftovers = 0
    for moment in moments:
        before = steps(folder)
        (process,) = start_ranks(
            save_for_ever, str(folder), before + 1, output=tmp_path / "out", environment={"TMPDIR": str(elsewhere)}
        )
        end = time.monotonic() + 30
        while steps(folder) < before + 2 and time.monotonic() < end:  # it is in the loop
            time.sleep(0.001)
        time.sleep(moment)
        known = steps(folder)
        process.kill()
        assert join([process]) == [-9]

        newest = newest_good(folder)
        assert newest is not None and verify(newest) >= known >= before + 2
        for path in folder.glob("*.ckpt"):  # not the newest alone
            loaded = read_checkpoint(path)
            numbers = torch.stack([loaded["state_dict"]["table"], *loaded["optimizer_states"]])
            assert numbers.unique().tolist() == [loaded["global_step"], loaded["global_step"] + 0.5]
        leftovers += len(list(folder.iterdir())) != 6
    assert leftovers > 5, "hardly a kill came while files were written"
    assert not list(elsewhere.iterdir())
    elsewhere.rmdir()
    CheckpointFiles().save_checkpoint({"global_step": 10**6, "state_dict": {}}, folder / "last.ckpt")
    assert len(list(folder.iterdir())) == 6, "what killed saves left is gone"
