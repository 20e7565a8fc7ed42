"""`maskcap tokens` with a method: the patches of a picture, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.cli.tokens import main as tokens


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """448 × 448 px, 16 × 16 cells: black at the left, noise at the right."""
    pixels = np.zeros((448, 448, 3), np.uint8)
    pixels[:, 224:] = np.random.default_rng(0).integers(0, 256, (448, 224, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run(command, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """run(overrides…) → exit code and the run's folder, in this process."""

    def call(*overrides: str) -> tuple[int, Path]:
        return command(tokens, *overrides, f"hydra.run.dir={tmp_path / 'run'}"), tmp_path / "run"

    return call


def read(folder: Path) -> dict:
    return json.loads((folder / "patches.json").read_text())


def test_a_budget(run, photo: Path, capsys: pytest.CaptureFixture[str]):
    code, folder = run(f"image={photo}", "method=budget", "alpha=.3")
    out = capsys.readouterr().out
    assert code == 0, out
    folder = folder / "photo"
    content = read(folder)
    assert content["image"] == str(photo) and content["size"] == content["resized"] == [448, 448]
    assert (content["method"], content["alpha"], content["cell"], content["grid"]) == ("budget", 0.3, 28, [16, 16])
    assert content["info"] == {"base_tokens": 16, "budget": 77, "k": 20, "actual": 76}
    assert (content["tokens"], content["all"], content["fewest"]) == (76, 256, 16) and len(content["cells"]) == 76
    assert [level["cells"] for level in content["levels"]] == [48, 20, 8]
    assert [curve["method"] for curve in content["curves"]] == ["budget", "v2", "v1"]
    for part in ("budget, alpha 0.3", "29.7%", "112 px", "50.0%", str(folder / "patches.png"), "patches.json"):
        assert part in out, part
    assert {path.name for path in folder.iterdir()} == {"patches.json", "patches.png"}
    with Image.open(folder / "patches.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=v1", "alpha=null"], {"method": "v1", "alpha": None, "thresholds": [3.0, 2.0], "tokens": 136}),
        (["method=v2", "alpha=1"], {"method": "v2", "alpha": 1, "thresholds": None, "tokens": 136}),
        (["method=budget", "alpha=1"], {"tokens": 256}),
        (["vision_tokens=patches"], {"method": "budget", "alpha": 0.5, "tokens": 127}),  # 16 + 3 · (112 // 3)
        (["vision_tokens=patches", "alpha=.3"], {"method": "budget", "alpha": 0.3, "tokens": 76}),
        (["vision_tokens=patches", "vision_tokens.alpha=.3"], {"alpha": 0.3, "tokens": 76}),
        (["vision_tokens=patches", "method=v2", "alpha=9"], {"method": "v2", "alpha": 9, "tokens": 16}),
        (["vision_tokens=patches", "alpha=.3", "vision_tokens.levels=2"], {"tokens": 76, "fewest": 64}),
        (["vision_tokens=patches", "method=v1", "vision_tokens.levels=2", "vision_tokens.thresholds=[9]"],
         {"thresholds": [9.0], "tokens": 64}),
        (["method=budget", "alpha=1", "resize.max_pixels=200704"], {"resized": [448, 448], "tokens": 256}),
        (["method=budget", "alpha=1", "resize.max_pixels=50176"], {"resized": [224, 224], "tokens": 64}),
        (["method=budget", "alpha=1", "resize.cell=56"], {"grid": [8, 8], "cell": 56, "tokens": 64}),
    ],
)  # fmt: skip
def test_ways_to_say_it(run, photo: Path, overrides: list[str], expected: dict):
    code, folder = run(f"image={photo}", *overrides)
    assert code == 0
    content = read(folder / "photo")
    assert {name: content[name] for name in expected} == expected


def test_results_of_an_earlier_call_do_not_stay(run, photo: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "samples.png").write_bytes(b"mine")  # no results of ours are beside it
    patches = [f"image={photo}", f"out={out}", "method=budget", "alpha=.3"]
    assert run(*patches)[0] == 0
    assert {path.name for path in out.iterdir()} == {"patches.json", "patches.png", "samples.png"}
    assert run(f"image={photo}", f"out={out}", "vision_tokens.max_crops=1")[0] == 0
    assert {path.name for path in out.iterdir()} == {"crops", "crops.png", "overlap.json", "samples.png"}
    (out / "crops" / "mine.png").write_bytes(b"")
    (out / "samples.png").unlink()
    assert run(*patches)[0] == 0
    assert {path.name for path in out.rglob("*")} == {"patches.json", "patches.png", "crops", "mine.png"}


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["alpha=.3"], 2, "alpha=0.3 is of patches, and no method is chosen: add method=budget"),
        (["resize.cell=14"], 2, "resize.cell=14 is of patches, not of crops"),
        (["method=bugdet", "alpha=.3"], 2, "method must be one of 'budget', 'v1', 'v2' or null, not 'bugdet'"),
        (["method=budget"], 2, "needs a number, for example alpha=0.5"),
        (["method=budget", "alpha=0"], 2, "alpha=0"),
        (["method=budget", "alpha=1.5"], 2, "at most 1"),
        (["method=budget", "alpha=much"], 2, "alpha must be float or null"),
        (["method=v2", "alpha=-1"], 2, "at least 0"),
        (["method=v1", "alpha=.3"], 2, "alpha=.3: method=v1 does not use it, but thresholds"),
        (["method=budget", "alpha=.3", "vision_tokens.max_crops=6"], 2, "vision_tokens.max_crops=6 is of crops"),
        (["method=budget", "alpha=.3", "vision_tokens=tiling"], 2, "vision_tokens=tiling is of crops"),
        (["method=budget", "alpha=.3", "geometry=molmo"], 2, "geometry=molmo is of crops, method=budget of patches"),
        (["vision_tokens=patches", "geometry.crop=224"], 2, "is of crops, vision_tokens=patches of patches"),
        (["vision_tokens=patches", "method=v2", "vision_tokens.method=v2"], 2, "say the same thing"),
        (["vision_tokens=patches", "vision_tokens.thresholds=[3,2]"], 2, "thresholds are of method v1; budget does"),
        (["method=v1", "vision_tokens.levels=2"], 1, "unknown key 'vision_tokens.levels'"),
        (["vision_tokens=patches", "vision_tokens.levels=0"], 2, "levels=0"),
        (["method=v1", "resize.max_pixels=700"], 2, "max_pixels=700"),
        (["method=v1", "data=demo"], 2, "patches are of one picture"),
        (["method=v1", "image=null"], 2, "patches are of one picture"),
        (["method=v1", "image=nowhere.png"], 2, "nowhere.png: no such file"),
    ],
)
def test_a_mistake_is_one_short_message(run, photo: Path, overrides, code, message, tmp_path: Path, capsys):
    assert run(f"image={photo}", *overrides)[0] == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error) < 400
    assert not (tmp_path / "run").exists()
