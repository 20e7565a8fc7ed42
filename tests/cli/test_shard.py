"""`maskcap shard` as a user runs it: from files to shards to batches, in jobs, killed, and with mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from maskcap.cli.launch import conf_folder
from maskcap.cli.shard import SHARD_SCHEMA, main
from maskcap.config import check_config
from maskcap.data.scenes import make_scenes
from maskcap.data.shards import ShardSource
from maskcap.data.sources import SA1BSource


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images of SA-1B, and the rest."""
    return make_scenes(tmp_path_factory.mktemp("shard") / "scenes", train=320, val=2, size=64, workers=0)


@pytest.fixture
def given(root: Path, tmp_path: Path) -> list[str]:
    """SA-1B in shards of 4 images."""
    places = [f"data.root={root}", f"out={tmp_path / 'out'}", f"paths.runs={tmp_path / 'runs'}"]
    return ["data=sa1b", "data.split=all", *places, "groups_per_shard=4"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_to_shards(command, given: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(main, *given, "resize=32") == 0, capsys.readouterr().err
    names = [f"shard-00000{n}.{ending}" for n in range(4) for ending in ("json", "tar")]
    assert sorted(contents(tmp_path / "out")) == ["index.json", "plan.json", *names]
    there = ShardSource(tmp_path / "out")
    assert [there.key_of(i) for i in range(16)] == [SA1BSource(root).key_of(i) for i in range(16)]
    assert there[0].image1.stored == (32, 32)
    log = next((tmp_path / "runs").rglob("shard.log")).read_text()
    assert "4 shards written, 0 kept: 16 images or videos, 16 records" in log and "data.shards=" in log
    assert command(main, *given, "resize=32", "workers=0") == 0
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("shard.log")]
    assert any("0 shards written, 4 kept" in log for log in logs)
    assert command(main, *given) == 2 and "resize: 32 then, None now" in capsys.readouterr().err


def test_an_array_of_jobs_ends_with_the_files_of_one(command, given: list[str], tmp_path: Path):
    assert command(main, *given, "workers=0") == 0
    one = contents(tmp_path / "out")
    array = [each.replace("/out", "/array") for each in given]
    assert command(main, "-m", *array, "job=0,1,2", "jobs=3", "workers=0", f"hydra.sweep.dir={tmp_path}/sweep") == 0
    assert contents(tmp_path / "array") == one


def test_killed_and_run_again(command, given: list[str], tmp_path: Path):
    assert command(main, *given, "workers=0", "groups_per_shard=1") == 0
    expected = contents(tmp_path / "out")
    killed = [each.replace("/out", "/killed") for each in given] + ["groups_per_shard=1"]
    script = "from maskcap.cli.shard import main; main()"
    process = subprocess.Popen([sys.executable, "-c", script, *killed], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("killed/shard-*.tar")) and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "index.json").exists()
    assert command(main, *killed) == 0
    assert contents(tmp_path / "killed") == expected


def test_bad_records_are_left_out_and_listed(command, given: list[str], tmp_path: Path, capsys):
    (tmp_path / "sa1b").mkdir()
    for name in ("sa_1", "sa_2"):
        annotation = {"id": 1, "segmentation": {"size": [4, 4], "counts": [8, 8]}}
        image = {"height": 4, "width": 4, "file_name": f"{name}.jpg"}
        text = json.dumps({"image": image, "annotations": [annotation]})
        (tmp_path / "sa1b" / f"{name}.json").write_text(text)
        from PIL import Image

        Image.new("RGB", (4, 4)).save(tmp_path / "sa1b" / f"{name}.jpg")
    (tmp_path / "sa1b" / "sa_2.jpg").write_bytes(b"\xff\xd8 and no more")
    given = [each for each in given if not each.startswith("data.root")] + [f"data.root={tmp_path}"]
    assert command(main, *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sa1b/train/2: ") and len(error.splitlines()) == 1
    assert command(main, *given, "on_bad_sample=skip") == 0
    (line,) = (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "sa1b/train/2"
    assert len(ShardSource(tmp_path / "out")) == 1
    shutil.copy(tmp_path / "sa1b" / "sa_1.jpg", tmp_path / "sa1b" / "sa_2.jpg")
    assert command(main, *given) == 0
    assert len(ShardSource(tmp_path / "out")) == 2 and not (tmp_path / "out" / "bad_samples.jsonl").exists()
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("shard.log")]
    assert sum("written again: 1 of its records were bad and may be repaired by now" in log for log in logs) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["source=mian"], 2, "source=mian: no such source in set=train; did you mean 'main'? There are: main"),
        (
            ["data=mixture", "data.split=train"],
            2,
            "the data has 3 sources in set=train (refcoco, refcoco_plus, osprey); choose one",
        ),
        (["set=validation"], 2, "set=validation: sets are train, val, test"),
        (["set=test"], 2, "has 0 sources in set=test (none)"),
        (["resize=big"], 2, "resize must be int or null"),
        (["job=1"], 2, "0 ≤ job < jobs"),
        (["out=/proc"], 2, "out=/proc: cannot be written ("),
        (["limit=0"], 2, "limit=0: needs at least 1"),
        (["resise=1024"], 1, "unknown key 'resise'; did you mean 'resize'?"),
    ],
)
def test_a_mistake_is_one_short_message(command, given, arguments: list[str], code: int, message: str, capsys):
    assert command(main, *given, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_out_must_be_given(command, capsys: pytest.CaptureFixture[str]):
    assert command(main) == 2
    assert "out is not set" in capsys.readouterr().err


@pytest.mark.parametrize("data", sorted(path.stem for path in (conf_folder() / "data").glob("*.yaml")))
def test_every_data_set_composes(data: str):
    from maskcap.cli.data_alone import data_alone

    given = [f"data={data}", "out=/nowhere", "paths.run=/nowhere"]
    given += [] if data in ("demo", "shards") else ["data.root=/nowhere"]
    given += ["data.shards=/nowhere"] if data == "shards" else []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        checked = check_config(data_alone(compose("shard", overrides=given)), SHARD_SCHEMA)
    assert checked["groups_per_shard"] == 1000


def test_help_shows_examples_and_imports_nothing_heavy():
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    script += "from maskcap.cli.main import main; main(['shard', '--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "maskcap shard data=sa1b" in done.stdout and "data: cycle_sa1b, cycle_sav, demo" in done.stdout
    assert done.stdout.splitlines()[-1] == "False" and done.stderr == ""
