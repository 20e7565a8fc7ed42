from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from maskcap.data.scenes import make_scenes
from maskcap.data.scenes.notes import Job
from maskcap.data.scenes.parallel import draw_all
from maskcap.data.scenes.scene import SPLITS
from maskcap.data.sources import OspreySource, RefCOCOSource, SA1BSource, SAVSource
from maskcap.errors import ConfigError, DataError

SMALL = {"train": 2, "val": 1, "size": 64, "workers": 0}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path):
    first, again, other = (
        digest(make_scenes(tmp_path / name, seed=seed, **SMALL)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert not {name for name in first if first[name] == other[name]}


def test_processes_draw_what_one_process_draws(tmp_path: Path):
    notes = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        notes.append(list(draw_all([Job(folder, 0, SPLITS[0], index, 64) for index in range(210)], workers)))
    assert notes[0] == notes[1]
    assert digest(tmp_path / "0") == digest(tmp_path / "2")


def test_a_failing_process_is_named(tmp_path: Path):
    jobs = [Job(tmp_path / "missing", 0, SPLITS[0], index, 64) for index in range(210)]
    with pytest.raises(DataError, match=r"drawing scenes into .*missing failed: FileNotFoundError"):
        list(draw_all(jobs, 2))


def test_a_second_call_draws_nothing_and_other_arguments_redraw(tmp_path: Path):
    root = make_scenes(tmp_path / "demo", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert make_scenes(root, **SMALL) == root
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_scenes(root, **{**SMALL, "train": 3})
    assert json.loads((root / "manifest.json").read_text())["train"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_failure_leaves_nothing_behind_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make_scenes(tmp_path / "demo", **SMALL)
    before = digest(root)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("maskcap.data.scenes.make.write_sav", fail)
    with pytest.raises(OSError, match="no space"):
        make_scenes(root, **{**SMALL, "train": 3})
    assert digest(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        make_scenes(tmp_path, **SMALL)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "value"), [("train", 0), ("val", 0), ("size", 32), ("seed", -1), ("workers", -2)])
def test_impossible_arguments(tmp_path: Path, name: str, value: int):
    with pytest.raises(ConfigError, match=f"{name} must be at least"):
        make_scenes(tmp_path / "demo", **{**SMALL, name: value})
    assert not list(tmp_path.iterdir())


def test_the_four_sources_read_it(scenes_root: Path):
    counts = {"train": 12, "val": 9, "testA": 9, "testB": 9}
    for split, count in counts.items():
        assert len(RefCOCOSource(scenes_root, "refcoco", split=split)) == count
    assert len(RefCOCOSource(scenes_root, "refcoco+", split="train")) == 6
    pair = RefCOCOSource(scenes_root, "refcoco+", split="testB")[0]
    assert len(pair.regions1) == 2
    images = scenes_root / "coco" / "train2014"
    detail = OspreySource(scenes_root / "osprey" / "osprey_detail_description.json", images)
    short = OspreySource(scenes_root / "osprey" / "osprey_short_form_val.json", images)
    assert (len(detail), len(short)) == (12, 9)
    assert not detail.skipped and not short.skipped
    assert detail[0].regions1[0].captions[0].split()[0] in ("small", "large")
    assert all(len(region.captions) == 3 for region in short[0].regions1)
    assert len(SA1BSource(scenes_root)) == 2
    assert len(SAVSource(scenes_root)) == 32
    assert len(SAVSource(scenes_root, pairs=True)) == 24
