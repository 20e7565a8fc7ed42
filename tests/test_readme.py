"""Every command and snippet of the README runs, on drawn scenes and tiny weights where it names /data and /weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from maskcap.cli.eval import main as evaluate
from maskcap.cli.main import main as maskcap
from maskcap.cli.train import main as train
from maskcap.data.scenes import make_scenes
from maskcap.data.scenes.folder import main as draw_folder
from maskcap.models.presets import tiny_internvl, tiny_qwen2_vl, tiny_sam2
from tests import processes
from tests.families import write_families

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCED = README.split("```")[1::2]  # what stands between an opening and a closing fence
COMMANDS = [line for block in FENCED if block.startswith("\n") for line in block.splitlines()]
SNIPPETS = [block.removeprefix("python\n") for block in FENCED if block.startswith("python\n")]
PYTHON = [shlex.split(line, comments=True)[1:] for line in COMMANDS if line.startswith("python ")]
TORCHRUN = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("torchrun ")]
MASKCAP = [shlex.split(line, comments=True)[1:] for line in COMMANDS if line.startswith("maskcap ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, weights and a run to resume, all tiny."""
    folder = tmp_path_factory.mktemp("readme")
    make_scenes(folder / "data", train=8, val=3, size=64, workers=1)
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)
    vlm.model.save_pretrained(folder / "vlm")
    vlm.tokenizer.save_pretrained(folder / "vlm")
    qwen = tiny_qwen2_vl(image_size=32, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    qwen.model.save_pretrained(folder / "qwen")
    qwen.tokenizer.save_pretrained(folder / "qwen")
    tiny_sam2(image_size=64, hidden_size=64, width=8, mlp_dim=64).model.save_pretrained(folder / "sam")
    write_families(folder / "families", count=2)
    return folder


def _small(arguments: list[str], place: Path, run: Path) -> list[str]:
    """The same command with this test's folders and sizes."""
    of_every_family = any("sa2va" in argument for argument in arguments)
    folders = {
        "/data": str(place / ("families" if of_every_family else "data")),
        "/weights/InternVL3-1B-hf": str(place / "vlm"),
        "/weights/Qwen2-VL-2B-Instruct": str(place / "qwen"),
        "/weights/sam2.1-hiera-large": str(place / "sam"),
        "runs/demo/2026-01-01_12-00-00": str(place / "run"),
        "/shards": str(place / "shards"),
        "latency.json": str(place / "latency.json"),
        "sweep": str(place / "sweep"),
        "my_images": str(place / "my_images"),
        "photo.jpg": str(next((place / "data" / "coco").rglob("*.jpg"))),
    }
    swapped = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        for known, here in folders.items():
            if value == known or value.startswith(known + "/"):
                value = here + value[len(known) :]
        swapped.append(key + equals + value)
    return [*swapped, f"hydra.run.dir={run}", f"hydra.sweep.dir={run}"]


DEMO = ["data.prepare.train=8", "data.prepare.val=3", "data.prepare.size=64", "data.image_size=64", "data.limit_val=2"]
DEMO += ["data.samples_per_epoch=4", "data.batch_size=2", "model.image_size=64", "model.hidden_size=32"]
DEMO += ["segmenter.image_size=64", "segmenter.hidden_size=64", "callbacks.scene_probes.limit=2"]
SHORT = ["module.meteor=false", "mask_caption.max_new_tokens=3", "trainer.max_epochs=1"]
LARGE = ["model.image_size=32", "model.dtype=float32", "model.lora.rank=2", "data.image_size=64", "trainer=cpu"]
LARGE += ["data.num_workers=0", "data.limit_val=1", "data.samples_per_epoch=4", "trainer.val_check_interval=null"]
LARGE_QWEN = ["model.max_pixels=1024", "model.min_pixels=64", *LARGE[1:]]  # its views have no one side
MARGINS = ["vision_tokens.margins=[2,2]"]  # crops of 64 px have 8 patches
FOLDER = ["data.samples_per_epoch=4", "data.num_workers=0", "segmenter.image_size=64", "model.image_size=64"]
OVERFIT = ["data.samples_per_epoch=4", "data.image_size=64", "trainer.check_val_every_n_epoch=1"]


def _train_once(place: Path, command: Any) -> None:
    """The run that is evaluated, resumed, swept."""
    if not (place / "run").exists():
        assert command(train, *DEMO, *SHORT, f"data.root={place / 'data2'}", f"hydra.run.dir={place / 'run'}") == 0


@pytest.mark.parametrize("arguments", MASKCAP, ids=[" ".join(arguments) for arguments in MASKCAP])
def test_readme_maskcap_commands(arguments: list[str], place: Path, tmp_path: Path, command) -> None:
    """Run in the README's order: training from shards, below, reads what is written here."""
    small = _small(arguments, place, tmp_path / "run")
    if arguments[0] == "report":  # no configuration of its own
        _train_once(place, command)
        assert command(maskcap, "report", str(place / "run"), f"out={tmp_path / 'report.html'}") == 0
        return
    if arguments[0] == "doctor":
        small += [*LARGE[:6], "allow_random=true", "steps=3", "factor=1", "images=1"]
    elif arguments[0] != "tokens":
        small.append("workers=0")
    if arguments[1] in ("sweep", "profile"):
        _train_once(place, command)
        small += MARGINS
    assert command(maskcap, *small) == 0


@pytest.mark.parametrize("arguments", PYTHON, ids=[" ".join(arguments) for arguments in PYTHON])
def test_readme_commands(arguments: list[str], place: Path, tmp_path: Path, command) -> None:
    if arguments[0] == "-m":  # draws images, which the next command trains on
        module, *given = arguments[1:]
        assert module == "maskcap.data.scenes.folder"
        assert draw_folder([str(place / given[0]), *given[1:]]) == 0
        return
    _train_once(place, command)
    script, *given = _small(arguments, place, tmp_path / "run")
    if "vision_tokens=tiling" in given:
        given += MARGINS
    if script == "eval.py":
        assert command(evaluate, *given) == 0
        return
    if "--help" in given:
        return  # tests/cli runs it
    if "hydra/launcher=slurm" in given:
        return  # tests/slurm runs it, where there is a Slurm
    if "hydra/sweeper=optuna" in given:
        given = [*given, "hydra.sweeper.n_trials=1"]
    if "experiment=finetune_folder" in given:
        extra = FOLDER
    elif "debug=overfit" in given:
        extra = OVERFIT
    elif any(argument.startswith("model.path") for argument in given):
        extra = LARGE_QWEN if "model=qwen2_vl" in given else LARGE
    else:
        extra = [*DEMO, f"data.root={place / 'data2'}"]
        if any(argument.startswith("checkpoint=") for argument in given):
            extra = [*extra, *SHORT[:2], "trainer.max_epochs=2"]
    named = {argument.partition("=")[0] for argument in given}
    defaults = {argument.partition("=")[0]: argument for argument in [*SHORT, *extra]}  # extra wins over SHORT
    options = [argument for key, argument in defaults.items() if key not in named]
    if "-m" in given:
        given = ["-m", *[argument for argument in given if argument != "-m"]]
    assert command(train, *given, *options) == 0


@pytest.mark.parametrize("arguments", TORCHRUN, ids=[" ".join(arguments) for arguments in TORCHRUN])
def test_readme_torchrun(arguments: list[str], place: Path, tmp_path: Path) -> None:
    """In two ranks, on a CPU, with the tiny weights."""
    weights = [f"model.path={place / 'vlm'}", f"segmenter.path={place / 'sam'}", *processes.ddp_on_cpu()]
    large = [argument for argument in LARGE if argument != "trainer=cpu"]
    given = [*weights, *_small(arguments[1:], place, tmp_path / "run"), *SHORT, *large]
    if (chosen := "trainer=fsdp") in given:
        given.remove("trainer=ddp")
        assert chosen in given
    codes = processes.run_ranks(processes.train, *dict.fromkeys(given), world=2, output=tmp_path / "output")
    assert codes == [0, 0], "\n".join(file.read_text()[-2000:] for file in (tmp_path / "output").iterdir())


def test_readme_names_commands() -> None:
    names = ["check", "shard", "check", "doctor", "report", *["tokens"] * 5]
    assert len(PYTHON) >= 10 and len(TORCHRUN) == 3 and [arguments[0] for arguments in MASKCAP] == names
    for line in COMMANDS:
        if line.startswith("sbatch "):
            assert (ROOT / next(word for word in line.split() if word.endswith(".sbatch"))).is_file()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(COMMANDS), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)
    for line in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / line).exists(), line


def _run_snippet(number: int, place: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    here = {"data/demo": place / "data", "/weights/InternVL3-1B-hf": place / "vlm"}
    code = SNIPPETS[number]
    for named, folder in here.items():
        code = code.replace(f'"{named}"', repr(str(folder)))
    exec(code, names)
    return names


def test_readme_processor(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = _run_snippet(2, place)
    assert len(SNIPPETS) == 3 and names["logits"].shape[1] == names["inputs"]["input_ids"].shape[1] == 2 + 76 + 1
    (comment,) = re.findall(r"print\(processor.last_budget_info\)  # (.*)", README)
    assert capsys.readouterr().out.strip() == comment and names["ids"].shape[1] <= 2 + 76 + 1 + 5


def test_readme_snippet(place: Path) -> None:
    names = _run_snippet(0, place)
    assert len(names["captions"]) == 2 and names["logits"].shape == (2, 32, 32)  # type: ignore[arg-type,attr-defined]


def test_readme_sa2va_format(place: Path) -> None:
    batch = _run_snippet(1, place)["batch"]
    assert isinstance(batch, dict) and batch["pixel_values"][0].shape[1:] == (3, 448, 448)
