"""Drawn scenes as a plain folder: what is written is what the source reads, and the command says what to do next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.data.rle import decode_mask
from maskcap.data.scenes import parse_phrase
from maskcap.data.scenes.folder import main, write_folder
from maskcap.data.sources import FolderSource
from maskcap.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("drawn") / "mine", images=9, size=96)


def test_the_source_reads_every_scene_with_masks_of_both_forms(folder: Path):
    source = FolderSource(folder)
    assert len(source) == 9 and source.bad == {} and source.skipped == {}
    forms = [any("/" in region.id for region in record.regions1) for record in source]
    assert forms == [number % 4 == 3 for number in range(9)]
    told = [sum(bool(region.captions) for region in record.regions1) for record in source]
    assert told[7] == 0 and all(
        count == len(r.regions1) for i, (count, r) in enumerate(zip(told, source, strict=True)) if i != 7
    )
    for record in source:
        masks = np.stack([decode_mask(region.mask, 96, 96) for region in record.regions1])
        assert 2 <= len(masks) <= 5 and masks.any(axis=(1, 2)).all() and masks.sum(0).max() == 1


def test_captions_are_of_their_masks(folder: Path):
    columns = {"left": (0, 32), "": (32, 64), "right": (64, 96)}
    for record in FolderSource(folder):
        with Image.open(folder / "images" / f"{record.key.rpartition('/')[2]}.jpg") as opened:
            pixels = np.asarray(opened.convert("RGB"), np.float32)
        for region in record.regions1:
            for caption in region.captions:
                said = parse_phrase(caption)
                mask = decode_mask(region.mask, 96, 96)
                red, green, blue = pixels[mask > 0].mean(0)
                if said["colour"] in ("red", "blue"):
                    assert (red > blue) == (said["colour"] == "red")
                if "place" in said:
                    side = next((name for name in ("left", "right") if name in said["place"]), "")
                    low, high = columns[side]
                    assert low <= np.flatnonzero(mask.any(0)).mean() < high
            if region.captions:
                assert "place" in parse_phrase(region.captions[0])
                assert [len(parse_phrase(each)) for each in region.captions[1:]] in ([], [3])


def test_the_same_arguments_write_the_same_bytes(folder: Path, tmp_path: Path):
    again = write_folder(tmp_path / "again", images=9, size=96)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (write_folder(tmp_path / "other", images=2, size=96, seed=1) / "captions.jsonl").read_bytes() not in (
        folder / "captions.jsonl"
    ).read_bytes()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "mine"), "--images", "2", "--size", "64"]) == 0
    assert f"python train.py experiment=finetune_folder data.root={tmp_path / 'mine'}" in capsys.readouterr().out
    assert len([json.loads(each) for each in (tmp_path / "mine" / "captions.jsonl").read_text().splitlines()]) >= 4
    assert main([str(tmp_path / "mine")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    command = [sys.executable, "-m", "maskcap.data.scenes.folder", str(tmp_path / "new"), "--images", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(FolderSource(tmp_path / "new")) == 1


def test_impossible_arguments(tmp_path: Path):
    for images, size, seed in ((0, 96, 0), (1, 8, 0), (1, 96, -1)):
        with pytest.raises(ConfigError, match="write_folder: needs images"):
            write_folder(tmp_path / "none", images=images, size=size, seed=seed)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nothing is overwritten"):
        write_folder(tmp_path / "file")
    assert not (tmp_path / "none").exists()
