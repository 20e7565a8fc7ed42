"""`maskcap check` as a user runs it: a clean set, a set with bad records, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from maskcap.cli.check import CHECK_SCHEMA
from maskcap.cli.check import main as check
from maskcap.cli.data_alone import data_alone
from maskcap.cli.launch import conf_folder
from maskcap.config import check_config
from maskcap.data.scenes import make_scenes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Drawn scenes in the real layouts, made anew: tests damage them."""
    make_scenes(tmp_path / "scenes", train=12, val=3, size=64)
    return tmp_path / "scenes"


@pytest.fixture
def run(command, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """run(overrides…) → exit code and the run's folder, in this process."""

    def call(*overrides: str, workers: int = 0) -> tuple[int, Path]:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        return command(check, *overrides, f"workers={workers}", f"hydra.run.dir={folder}"), folder

    return call


def damage(root: Path) -> dict[str, str]:
    """Five bad records of RefCOCO's train split, key → reason; the last one has two problems."""
    path = root / "refcoco" / "instances.json"
    instances = json.loads(path.read_text())
    images = sorted((image for image in instances["images"]), key=lambda image: image["id"])[:5]
    segmentations: dict[int, list[dict]] = {}
    for annotation in instances["annotations"]:
        segmentations.setdefault(annotation["image_id"], []).append(annotation)
    missing, cut, size, rle, both = images
    files = [root / "coco" / "train2014" / image["file_name"] for image in images]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-200])
    Image.new("RGB", (10, 10)).save(files[2])
    segmentations[rle["id"]][0]["segmentation"] = {"size": [64, 64], "counts": "04"}
    segmentations[both["id"]][0]["segmentation"] = [[1, 1, float("nan"), 1, 5, 5]]
    segmentations[both["id"]][1]["segmentation"] = {"size": [64, 64], "counts": [64 * 64]}
    path.write_text(json.dumps(instances))
    reasons = ["missing file", "truncated image", "wrong size", "malformed RLE", "malformed polygon"]
    return {f"refcoco/train/{image['id']}": reason for image, reason in zip(images, reasons, strict=True)}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]


def test_a_clean_set_is_0(run, root: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ["data.prepare.train=12", "data.prepare.val=3", "data.prepare.size=64"]
    code, folder = run(f"data.root={root}", *sizes, "data.image_size=64")
    out = capsys.readouterr().out
    assert code == 0, out
    assert "All 30 records are good." in out and str(folder / "check.json") in out
    assert "data.limit_val=200 is for training" in (folder / "check.log").read_text()
    content = json.loads((folder / "check.json").read_text())
    assert {part: list(names) for part, names in content["sets"].items()} == {
        "train": ["main", "osprey"],
        "val": ["main", "content"],
    }
    main, whole = content["sets"]["train"]["main"], content["all"]
    assert (main["source"], main["files"], main["counts"]["records"], main["reasons"]) == ("refcoco", 12, 12, {})
    assert whole["counts"]["records"] == 30 and whole["histograms"]["width"]["most"] == 64
    assert sum(whole["histograms"]["caption_words"]["counts"]) == whole["counts"]["captions"] > 30
    assert (content["image_size"], content["grid"], content["limit"]) == (64, 16, None)
    with Image.open(folder / "histograms.png") as picture:
        assert picture.size[0] > 1000
    assert not (folder / "bad_samples.jsonl").exists()


def test_bad_records_are_named_and_the_code_is_1(run, root: Path, capsys: pytest.CaptureFixture[str]):
    bad = damage(root)
    code, folder = run("data=refcoco", f"data.root={root}")
    out = capsys.readouterr().out
    assert code == 1, out
    found = lines(folder)
    assert {line["key"]: line["reason"] for line in reversed(found)} == bad  # the first of each key
    last = list(bad)[-1]
    assert [line["reason"] for line in found if line["key"] == last] == ["malformed polygon", "empty mask"]
    assert all(last in line["message"] and "region" in line["message"] for line in found if line["key"] == last)
    assert "6 problems in 5 of 15 records" in " ".join(out.split())
    assert "15 of 15 records: 6 problems" in (folder / "check.log").read_text()
    assert all(key in out for key in bad) and "malformed polygon" in out
    main = json.loads((folder / "check.json").read_text())["sets"]["train"]["main"]
    assert (main["counts"]["bad_records"], main["counts"]["problems"], len(main["reasons"])) == (5, 6, 6)
    assert main["first_keys"]["missing file"] == [list(bad)[0]]

    again, other = run("data=refcoco", f"data.root={root}", workers=2)
    assert again == 1 and lines(other) == found
    assert (other / "check.json").read_bytes() == (folder / "check.json").read_bytes()


def test_sets_limits_and_an_earlier_check_in_the_same_folder(run, command, root: Path, tmp_path: Path):
    damage(root)
    data = ["data=refcoco", f"data.root={root}"]
    code, folder = run(*data, "sets=[val]")
    assert code == 0 and list(json.loads((folder / "check.json").read_text())["sets"]) == ["val"]
    code, folder = run(*data, "limit=1", "sets=[train]")
    assert json.loads((folder / "check.json").read_text())["all"]["counts"]["records"] == 1
    for _ in range(2):
        assert command(check, *data, f"hydra.run.dir={tmp_path / 'same'}", "workers=0") == 1
    assert len(lines(tmp_path / "same")) == 6


def test_every_check_of_a_multirun_is_made(command, root: Path, tmp_path: Path):
    damage(root)
    given = [f"data.root={root}", "data=refcoco,sa1b,sav", "workers=0", f"hydra.sweep.dir={tmp_path / 'all'}"]
    assert command(check, "-m", *given) == 1
    counts = [json.loads((tmp_path / "all" / str(i) / "check.json").read_text())["all"]["counts"] for i in range(3)]
    assert [count["bad_records"] for count in counts] == [5, 0, 0]


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_folder() / "data").glob("*.yaml")))
def test_every_data_set_can_be_checked(choice: str):
    needs = {"demo": "seed=0", "shards": "data.shards=/nowhere"}.get(choice, "data.root=/nowhere")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose("check", overrides=[f"data={choice}", needs, "paths.run=/nowhere/run"])
    data = check_config(data_alone(composed), CHECK_SCHEMA).build("data")
    assert data.val_names[0] == "main"


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["data=refcoco"], 2, "data.root is not set"),
        (["data=refcoco", "data.root=nowhere"], 2, "nowhere"),
        (["data=refcok"], 1, "did you mean 'refcoco' or 'grefcoco'?"),
        (["wrokers=1"], 1, "unknown key 'wrokers'; did you mean 'workers'?"),
        (["sets=[trian]"], 2, "there is no set 'trian'; sets are train, val, test"),
        (["sets=[test]"], 2, "the data has no source in them"),
        (["grid=0"], 2, "grid=0: needs at least 1"),
        (["limit=-1"], 2, "limit=-1: needs at least 1"),
        (["workers=many"], 2, "workers must be int"),
    ],
)
def test_a_mistake_is_one_short_message(
    command, overrides: list[str], code: int, message: str, root: Path, tmp_path: Path, capsys
):
    root_of_demo = [] if overrides[0].startswith("data=") else [f"data.root={root}", "data.prepare=null"]
    assert command(check, *overrides, *root_of_demo, f"hydra.run.dir={tmp_path / 'run'}") == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_help_says_what_the_exit_codes_are_and_imports_nothing_heavy():
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    script += "from maskcap.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", script, "check", "--help"], capture_output=True, text=True, check=True)
    assert (
        "maskcap check data=refcoco data.root=/data" in done.stdout
        and "data: cycle_sa1b, cycle_sav, demo" in done.stdout
    )
    assert "Exit code: 0 when every record is good, 1 when any is bad" in done.stdout
    assert done.stdout.splitlines()[-1] == "False" and done.stderr == ""
