"""The commands as a user runs them: a tiny training run, its evaluation and resumption, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.cli.eval import main as evaluate
from maskcap.cli.launch import experiment_in_its_place
from maskcap.cli.main import main as maskcap
from maskcap.cli.train import main as train

TIMES = {"train_seconds", "val_seconds"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make the demo small enough for a test."""
    root = tmp_path_factory.mktemp("scenes") / "demo"
    sizes = ["data.prepare.train=8", "data.prepare.val=3", "data.prepare.size=64"]
    sizes += ["data.image_size=64", "model.image_size=64", "segmenter.image_size=64", "model.hidden_size=32"]
    short = ["data.batch_size=2", "data.limit_val=2", "mask_caption.max_new_tokens=3", "module.meteor=false"]
    short += ["+trainer.limit_train_batches=2", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    short += ["++callbacks.scene_probes.limit=2"]
    return [f"data.root={root}", *sizes, *short]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_train_then_evaluate_then_resume(command, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert command(train, *tiny, f"hydra.run.dir={run}") == 0, capsys.readouterr().err
    there = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    wanted = {
        "config.yaml",
        "metrics.json",
        "metrics.csv",
        "train.log",
        "run.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    assert wanted <= there and any(name.startswith("samples/") for name in there)
    assert OmegaConf.load(run / "config.yaml").paths.run == str(run)
    metrics = read(run / "metrics.json")
    assert {"val/miou", "val/ciou", "val/caption_exact", "val/miou_content", "val/pair_colour"} <= set(metrics)

    again = tmp_path / "again"
    last = run / "checkpoints" / "last.ckpt"
    limit = "data.limit_val=2"  # as the run had; alone, eval takes every record
    assert command(evaluate, f"checkpoint={last}", f"hydra.run.dir={again}", limit) == 0, capsys.readouterr().err
    assert (again / "samples" / "step_000004.png").is_file()
    page = (again / "report.html").read_text()
    assert "val/miou" in page and "Lowest IoU" in page and "data:image/jpeg" in page and 'class="note"' not in page
    evaluated = read(again / "metrics.json")
    assert {name: evaluated[name] for name in metrics if name not in TIMES} == {
        name: value for name, value in metrics.items() if name not in TIMES
    }
    lines = [json.loads(line) for line in (again / "predictions.jsonl").read_text().splitlines()]
    assert len({line["key"] for line in lines}) == 4 and {line["set_name"] for line in lines} == {"main", "content"}

    capsys.readouterr()
    finished = [f"checkpoint={last}", f"hydra.run.dir={tmp_path / 'resumed'}"]
    assert command(train, *tiny, *finished) == 2
    assert "is at the end of this run already" in capsys.readouterr().err
    assert command(train, *tiny, *finished, "trainer.max_epochs=3", "optimizer.weight_decay=0.1") == 0
    assert "last.ckpt: optimizer.weight_decay differ; repeat" in (tmp_path / "resumed" / "train.log").read_text()
    assert read(tmp_path / "resumed" / "metrics.json")["step"] == 6


def test_multirun_writes_a_folder_for_each_combination(command, tiny: list[str], tmp_path: Path):
    sweep = [f"hydra.sweep.dir={tmp_path}", "optimizer.lr=1e-3,2e-3", "loops=prompt_to_mask"]
    quick = ["callbacks.scene_probes=null", "callbacks.pictures=null", "logger=csv"]
    assert command(train, "-m", *tiny, *quick, *sweep) == 0
    assert [OmegaConf.load(tmp_path / str(job) / "config.yaml").optimizer.lr for job in (0, 1)] == [1e-3, 2e-3]
    assert all("val/prompt_miou" in read(tmp_path / str(job) / "metrics.json") for job in (0, 1))
    table = (tmp_path / "comparison.md").read_text().splitlines()
    assert table[0].startswith("| run | optimizer.lr | prompt_miou |") and len(table) == 4
    for job, row in enumerate(table[2:]):
        prompt_miou = read(tmp_path / str(job) / "metrics.json")["val/prompt_miou"]
        assert row.startswith(f"| {job} | {(1e-3, 2e-3)[job]} | {prompt_miou:.4g} |")


def test_a_multirun_goes_on_after_a_run_that_fails(
    command, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sweep = [f"hydra.sweep.dir={tmp_path}", "+mask_caption.max_length=5,500", "loops=caption_to_mask"]
    quick = ["callbacks.scene_probes=null", "callbacks.pictures=null", "logger=csv"]
    assert command(train, "-m", *tiny, *quick, *sweep) == 2
    assert "the limit is 5" in capsys.readouterr().err
    table = (tmp_path / "comparison.md").read_text().splitlines()
    assert table[2].startswith("| 0 | 5 | - |") and table[3].startswith("| 1 | 500 | 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["optimizer.lrr=1"], 1, "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["vision_tokens.max_crops=4"], 1, "unknown key 'vision_tokens.max_crops': vision_tokens=tiling has it"),
        (["+optimizer.lrr=1"], 2, "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["optimizer.fused=true"], 1, "+optimizer.fused=true sets it"),
        (["optimiser=adamw"], 1, "unknown key 'optimiser'; did you mean 'optimizer'"),
        (
            ["data=refcok"],
            1,
            "there is no data=refcok; did you mean 'refcoco' or 'grefcoco'? Choices: cycle_sa1b, cycle_sav, demo, demo",
        ),
        (["+experiment=refcoc"], 1, "there is no experiment=refcoc; did you mean 'refcoco'?"),
        (["a b"], 1, "'a b' is not key=value"),
        (["optimizer.lr=fast"], 2, "optimizer.lr must be float, not 'fast' (str)"),
        (["+experiment=refcoco"], 2, "data.root is not set"),
        (["+experiment=refcoco", "data.root=nowhere", "debug=overfit"], 2, "nowhere"),
        (["module.describe_sets=[contnet]"], 2, "no validation set 'contnet'; did you mean 'content'? There are: main"),
        (["trainer.devices=2"], 2, "start them with torchrun"),
        (["checkpoint=nowhere.ckpt"], 2, "checkpoint=nowhere.ckpt does not exist"),
    ],
)
def test_a_mistake_is_one_short_message(
    command, arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(train, *arguments, f"paths.runs={tmp_path / 'runs'}") == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert "Traceback" not in error and len(error.splitlines()) <= 2


def test_a_run_that_never_began_leaves_no_folder(command, tmp_path: Path):
    assert command(train, "optimizer.lr=fast", f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_only_rank_0_removes_the_folder_that_ranks_share(
    command, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, "1")
    assert command(train, "optimizer.lr=fast", f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert (tmp_path / "run").is_dir()


def test_a_missing_checkpoint_names_the_newest_one_nearby(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"nonsense")
    assert command(evaluate, f"checkpoint={tmp_path}/run/lost.ckpt", f"paths.runs={tmp_path}/runs") == 2
    assert f"the newest one under {tmp_path}/run is {tmp_path}/run/last.ckpt" in capsys.readouterr().err
    assert command(evaluate, f"checkpoint={tmp_path}/run/last.ckpt", f"paths.runs={tmp_path}/runs") == 2
    assert "has no config.yaml" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(command, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "bad.ckpt").write_bytes(b"nonsense")
    assert command(train, *tiny, f"checkpoint={tmp_path}/bad.ckpt", f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert "bad.ckpt is not a readable checkpoint" in capsys.readouterr().err


def test_the_experiment_comes_before_debug():
    assert experiment_in_its_place(["+experiment=a", "+x=1", "debug=b"]) == ["experiment=a", "+x=1", "debug=b"]


def test_the_commands_by_name(capsys: pytest.CaptureFixture[str]):
    maskcap(["--version"])
    maskcap([])
    out = capsys.readouterr().out
    assert out.startswith("maskcap 0.") and "maskcap train" in out
    with pytest.raises(SystemExit) as end:
        maskcap(["trian"])
    assert end.value.code == 2 and "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "eval"])
def test_help_shows_examples_and_imports_nothing_heavy(name: str):
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    script += "from maskcap.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", script, name, "--help"], capture_output=True, text=True, check=True)
    assert f"python {name}.py" in done.stdout and "data: cycle_sa1b, cycle_sav, demo" in done.stdout
    assert done.stdout.splitlines()[-1] == "False" and done.stderr == ""


def test_the_same_seed_gives_the_same_metrics(command, tiny: list[str], tmp_path: Path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        assert command(train, *tiny, f"hydra.run.dir={run}") == 0
    a, b = (read(run / "metrics.json") for run in runs)
    assert {k: v for k, v in a.items() if not k.endswith("_seconds")} == {
        k: v for k, v in b.items() if not k.endswith("_seconds")
    }
