from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskcap.errors import CheckpointError
from maskcap.training.checkpoints import reading
from maskcap.training.checkpoints.manifest import DataFile, read_manifest
from maskcap.training.checkpoints.reading import newest_good, read_checkpoint, verify

Saved = Callable[..., Path]


def data_file(path: Path, part: str) -> Path:
    manifest = read_manifest(path)
    assert manifest is not None
    return path.with_name(getattr(manifest, part).name)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["weights", "state"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damage_is_named_with_what_to_take_instead(part: str, damage: str, saved: Saved):
    saved(1, "best")
    path = saved(2)
    file = data_file(path, part)
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        flip(file)
    wrong = {"missing": "is missing", "cut": "is damaged: .* bytes, not", "flipped": "is damaged: its sha256"}[damage]
    with pytest.raises(CheckpointError, match=rf"{file}, of the checkpoint {path}, {wrong}") as raised:
        read_checkpoint(path)
    assert f"The newest good checkpoint beside it is {path.with_name('best.ckpt')} (step 1)" in str(raised.value)
    flip(data_file(path.with_name("best.ckpt"), "weights"))
    with pytest.raises(CheckpointError, match="There is no good checkpoint beside it"):
        read_checkpoint(path)


def test_the_newest_good_one_is_found_and_others_are_named(saved: Saved, caplog: pytest.LogCaptureFixture):
    for step, name in ((3, "a"), (5, "b"), (4, "c")):
        folder = saved(step, name).parent
    assert newest_good(folder) == folder / "b.ckpt" and not caplog.records
    flip(data_file(folder / "b.ckpt", "state"))
    (folder / "torn.ckpt").write_text('{"format": "maskcap check')
    with caplog.at_level(logging.WARNING):
        assert newest_good(folder) == folder / "c.ckpt"
    first, second = (record.getMessage() for record in caplog.records)
    assert "torn.ckpt is a damaged checkpoint manifest" in first and "b.5-" in second
    saved(4, "d")
    assert newest_good(folder) == folder / "d.ckpt"  # of equal steps the one saved last
    assert newest_good(folder / "nowhere") is None and newest_good(folder.parent) is None


def test_a_link_leads_to_the_data_files(saved: Saved, tmp_path: Path):
    path = saved(4, "best")
    os.symlink(path, tmp_path / "link.ckpt")
    assert verify(tmp_path / "link.ckpt") == 4 and read_checkpoint(tmp_path / "link.ckpt")["global_step"] == 4


def test_lightnings_own_checkpoints_are_read(content: Callable[..., dict[str, Any]], saved: Saved):
    path = saved(2).with_name("plain.ckpt")
    torch.save(content(7), path)
    assert read_checkpoint(path)["state_dict"]["table"][0] == 7 and newest_good(path.parent) == path
    torch.save([1], path)
    with pytest.raises(CheckpointError, match=r"holds a list.*beside it is .*last.ckpt \(step 2\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04", b"{", b"{}", b'{"a": 1}', b"\x80\x02}q\x00."])
def test_a_file_of_something_else(data: bytes, tmp_path: Path):
    (tmp_path / "bad.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError, match="bad.ckpt"):
        read_checkpoint(tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_checkpoint(tmp_path / "lost.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2 of the format, this maskcap reads 1"),
        ({"weights": {"name": "../x.safetensors", "size": 1, "sha256": ""}}, "lies outside the folder"),
        ({"state": {"name": "/etc/passwd", "size": 1, "sha256": ""}}, "lies outside the folder"),
        ({"weights": {"name": "..", "size": 1, "sha256": ""}}, "lies outside the folder"),
        ({"weights": None}, "damaged checkpoint manifest"),
        ({"frozen": {"a": {"sha256": "x"}}}, "damaged checkpoint manifest"),
    ],
)
def test_a_manifest_that_is_wrong(change: dict[str, Any], message: str, saved: Saved):
    path = saved(1)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


class Payload:
    """Its pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("where", ["state", "plain", "bare pickle"])
def test_a_pickle_payload_is_refused_and_not_run(
    where: str, content: Callable[..., dict[str, Any]], saved: Saved, tmp_path: Path
):
    from hashlib import sha256

    path, payload = saved(1), Payload(tmp_path / "ran")
    if where == "state":  # of one who can write the manifest too
        torch.save({"global_step": 1, "loops": payload}, data_file(path, "state"))
        manifest = json.loads(path.read_text())
        data = data_file(path, "state").read_bytes()
        manifest["state"] |= {"size": len(data), "sha256": sha256(data).hexdigest()}
        path.write_text(json.dumps(manifest))
    elif where == "plain":
        torch.save(content(2) | {"loops": payload}, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    refused = "not a readable checkpoint" if where == "bare pickle" else "holds posix.mkdir: it was not loaded"
    with pytest.raises(CheckpointError, match=refused):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_is_replaced_while_it_is_read(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """The data files that its manifest named are gone by then: the new manifest's are read."""
    path = saved(1)
    check = reading._verify_file

    def slowly(place: Path, facts: DataFile, manifest: Path) -> None:
        """Another process saves first."""
        if read_manifest(path).step == 1:  # type: ignore[union-attr]
            saved(2)
        check(place, facts, manifest)

    monkeypatch.setattr(reading, "_verify_file", slowly)
    assert read_checkpoint(path)["global_step"] == 2 and verify(path) == 2
