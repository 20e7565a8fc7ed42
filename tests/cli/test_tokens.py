"""`maskcap tokens` as a user runs it: a picture, a data set, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.cli.tokens import main as tokens
from maskcap.data.scenes import make_scenes
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.tiling import resize_and_pad


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    path = tmp_path / "my photo.png"
    Image.fromarray(pixels).resize((640, 425), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def run(command, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """run(overrides…) → exit code and the run's folder, in this process."""

    def call(*overrides: str) -> tuple[int, Path]:
        return command(tokens, *overrides, f"hydra.run.dir={tmp_path / 'run'}"), tmp_path / "run"

    return call


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, train=6, val=2, size=64)
    return root


def read(folder: Path) -> dict:
    return json.loads((folder / "overlap.json").read_text())


def test_a_picture_with_molmos_geometry(run, photo: Path, capsys: pytest.CaptureFixture[str]):
    code, folder = run(f"image='{photo}'", "geometry=molmo")
    out = capsys.readouterr().out
    assert code == 0, out
    folder = folder / "my photo"
    assert str(folder / "crops.png") in out and "2 × 3 of 336 px" in out
    content = read(folder)
    assert (content["tiling"], content["canvas"]) == ([2, 3], [560, 784])  # the specification's 425 × 640
    assert (content["slots"], content["kept"], content["sequence_length"]) == (1008, 704, 160 + 20 * 29)
    assert content["overlap"]["overlap"] == pytest.approx(0.429, abs=5e-4)
    assert len(content["tilings"]) == 35 and content["geometry"]["window"] == 224  # Σ divisors of 1 … 12
    canvas, fit = resize_and_pad(np.asarray(Image.open(photo)), (560, 784))
    assert content["fit"] == {name: getattr(fit, name) for name in ("height", "width", "top", "left")}
    names = ["00_global.png", *(f"{r * 3 + c + 1:02d}_r{r}_c{c}.png" for r in range(2) for c in range(3))]
    assert sorted(path.name for path in (folder / "crops").iterdir()) == names
    for crop in content["crops"]:
        top, left, bottom, right = crop["on_canvas"]
        with Image.open(folder / crop["file"]) as stored:
            assert np.array_equal(np.asarray(stored), canvas[top:bottom, left:right])
    with Image.open(folder / "crops" / "00_global.png") as stored, Image.open(folder / "crops.png") as picture:
        assert stored.size == (336, 336) and picture.width > 1000


def test_options_and_an_earlier_picture_in_the_same_folder(run, photo: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert run(f"image='{photo}'", f"out={out}", "vision_tokens.exact_crops=6")[0] == 0
    (out / "crops" / "mine.png").write_bytes(b"")
    given = ["vision_tokens.max_crops=2", "vision_tokens.global_view=false", "vision_tokens.margins=[2,2]"]
    assert run(f"image='{photo}'", f"out={out}", "geometry.crop=224", *given)[0] == 0
    content = read(out)
    geometry = Geometry(224, margins=(2, 2))
    rows, columns = content["tiling"]
    assert rows * columns <= 2 and content["geometry"]["margins"] == [2, 2]
    assert content["kept"] == geometry.kept(rows, columns, global_view=False)
    assert content["sequence_length"] == content["kept"] + 2 and content["global_view"] is None
    kept = {"mine.png", *(Path(crop["file"]).name for crop in content["crops"])}
    assert {path.name for path in (out / "crops").iterdir()} == kept


def test_a_photo_that_asks_to_be_turned_is_turned(run, photo: Path, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(tmp_path / "turned.jpg", exif=exif)
    code, folder = run(f"image={tmp_path / 'turned.jpg'}")
    content = read(folder / "turned")
    assert code == 0 and (content["height"], content["width"]) == (640, 425)


def test_the_demos_scenes_are_drawn_and_surveyed(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ["data.prepare.train=6", "data.prepare.val=2", "data.prepare.size=64"]
    code, folder = run("data=demo", f"data.root={tmp_path / 'scenes'}", *sizes, "geometry.crop=56", "samples=3",
                       "geometry.margins=[0,2]", "vision_tokens.max_crops=4")  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0, out
    content = read(folder)
    assert (content["records"], content["bad_records"], content["distinct_sizes"]) == (16, 0, 1)
    assert content["images"] == 10  # Osprey's records show RefCOCO's images
    (taken,) = content["tilings_taken"]
    assert (taken["rows"], taken["columns"], taken["images"], taken["share"]) == (2, 2, 10, 1.0)
    assert content["mean_slots"] == 5 * 4 and content["mean_kept"] == taken["kept"] == 4 + 3 * 3
    assert content["list"]["of"] == "2, 4, 6, 9 crops" and len(content["tilings"]) == 8
    assert [entry["images"] for entry in content["list"]["entries"]] == [0, 0, 0, 10]  # ties to more tokens
    for name in ("tilings.png", "samples.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 900
        assert str(folder / name) in out


def test_sizes_come_from_the_annotations_alone(run, scenes: Path, tmp_path: Path):
    """Images that are damaged count, and stay out of the samples; a limit is of each source."""
    import shutil

    shutil.copytree(scenes, tmp_path / "scenes")
    for path in (tmp_path / "scenes" / "coco").rglob("*.jpg"):
        path.write_bytes(b"")
    given = ["data=refcoco", f"data.root={tmp_path / 'scenes'}", "sets=[train,val]"]
    code, folder = run(*given, "vision_tokens.image_sizes=[560x336,560x560]")
    assert code == 0
    content = read(folder)
    assert content["images"] == 8 and content["list"]["of"] == "image_sizes"
    assert [(entry["entry"], entry["share"]) for entry in content["list"]["entries"]] == [
        ("560x336", 0),
        ("560x560", 1),
    ]
    assert "left out of the samples" in (folder / "tokens.log").read_text()
    assert run(*given, "limit=1")[0] == 0 and read(folder)["images"] == 2


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        ([], 2, "give a picture, image=photo.jpg, or a data set"),
        (["image=a.png", "data=demo"], 2, "one of the two"),
        (["image=nowhere.png"], 2, "nowhere.png: no such file"),
        (["image=notes.txt"], 2, "notes.txt: not an image file that can be read"),
        (["image=."], 2, "cannot be read"),
        (["image=notes.txt", "imgae=x"], 1, "unknown key 'imgae'; did you mean 'image'?"),
        (["image=notes.txt", "geometry.crob=3"], 1, "did you mean 'geometry.crop'"),
        (["image=notes.txt", "geometry.crop=300"], 2, "crop=300 is no multiple"),
        (["image=notes.txt", "geometry=small"], 1, "there is no geometry=small. Choices: internvl, molmo, tiny"),
        (["image=notes.txt", "vision_tokens.min_scale=0.5"], 2, "are of a model at work, and not shown here"),
        (["image=notes.txt", "vision_tokens=single"], 2, "vision_tokens=tiling has"),
        (["image=notes.txt", "vision_tokens.vision_tokens=700"], 2, "take 512 or 768"),
        (["image=notes.txt", "vision_tokens.max_crops=many"], 2, "vision_tokens.max_crops must be int"),
        (["data=refcoco"], 2, "data.root is not set"),
        (["data=refcoco", "data.root=nowhere"], 2, "nowhere"),
        (["data=demo", "sets=[trian]"], 2, "there is no set 'trian'"),
        (["data=demo", "limit=0"], 2, "limit=0: needs at least 1"),
        (["data=demo", "compare=[]"], 2, "compare=[]"),
    ],
)
def test_a_mistake_is_one_short_message(run, overrides, code, message, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    assert run(*overrides)[0] == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error) < 400
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(run, photo: Path, capsys: pytest.CaptureFixture[str]):
    code, _ = run(f"image='{photo}'", f"out='{photo}'")
    assert code == 2 and "cannot be made" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    script = "import atexit, sys; atexit.register(lambda: print({'torch', 'matplotlib'} & set(sys.modules)))\n"
    script += "from maskcap.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "tokens", "--help"], capture_output=True, text=True, check=True
    )
    assert "maskcap tokens image=photo.jpg" in done.stdout and "geometry: internvl, molmo" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()" and done.stderr == ""
