"""Qwen2-VL with entropy-chosen patches, from the command line: training, evaluation, a multirun over alpha."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskcap.cli.eval import main as evaluate
from maskcap.cli.main import main as maskcap
from maskcap.cli.train import main as train
from maskcap.data.scenes import make_scenes
from maskcap.models.presets import tiny_qwen2_vl, tiny_sam2

PATCHES = ["model=qwen2_vl_tiny", "vision_tokens=patches", "vision_tokens.method=budget"]
DEMO = ["data.prepare.train=8", "data.prepare.val=3", "data.prepare.size=128", "data.image_size=64", "data.limit_val=2"]
DEMO += ["data.samples_per_epoch=4", "data.batch_size=2", "model.image_size=64", "model.hidden_size=32"]
DEMO += ["segmenter.image_size=64", "segmenter.hidden_size=64", "callbacks.scene_probes=null"]
DEMO += ["module.meteor=false", "mask_caption.max_new_tokens=3", "trainer.max_epochs=1", "trainer=cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qwen")


@pytest.fixture
def checkpoint(command: Any, place: Path) -> Path:
    """Of a run that lasts two steps, made once."""
    run = place / "run"
    if not run.exists():
        given = [*PATCHES, "vision_tokens.alpha=.3", *DEMO, f"data.root={place / 'data'}", f"hydra.run.dir={run}"]
        assert command(train, *given) == 0
    return run / "checkpoints" / "last.ckpt"


def test_both_loops_train_and_the_tokens_are_logged(checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"val/miou", "val/caption_exact"} <= set(metrics)
    log = (run / "train.log").read_text()
    # 8 × 8 blocks: a budget of 19 is 4 + 3 · 5
    assert "training: 4 images, mean 19.0 of 64.0 tokens (29.7%), 19 … 19; budget, alpha=0.3" in log
    assert "validation: " in log and (run / "samples").is_dir()


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([], "mean 19.0 of 64.0"),
        (["+vision_tokens.alpha=1"], "mean 64.0 of 64.0"),
        (["vision_tokens=patches", "vision_tokens.method=v2", "vision_tokens.alpha=100"], "mean 4.0 of 64.0"),
    ],
)
def test_a_checkpoint_is_evaluated_with_any_patches(
    command: Any, checkpoint: Path, tmp_path: Path, given: list[str], tokens: str
) -> None:
    assert command(evaluate, f"checkpoint={checkpoint}", *given, f"hydra.run.dir={tmp_path}") == 0
    assert tokens in (tmp_path / "eval.log").read_text()
    assert (tmp_path / "predictions.jsonl").stat().st_size > 0


def test_a_multirun_over_alpha_ends_in_a_table(command: Any, place: Path, checkpoint: Path, tmp_path: Path) -> None:
    given = [*PATCHES, "vision_tokens.alpha=.3,1", *DEMO, f"data.root={place / 'data'}", f"hydra.sweep.dir={tmp_path}"]
    assert command(train, "-m", *given) == 0
    runs = json.loads((tmp_path / "comparison.json").read_text())
    assert [run["settings"] for run in runs] == [{"vision_tokens.alpha": 0.3}, {"vision_tokens.alpha": 1}]


def test_a_checkpoint_is_swept_over_alpha(command: Any, checkpoint: Path, tmp_path: Path) -> None:
    given = ["tokens", "sweep", f"checkpoint={checkpoint}", "alphas=[.5,1]", "images=1", "rounds=1", "new_tokens=2"]
    assert command(maskcap, *given, f"out={tmp_path / 'sweep'}", f"hydra.run.dir={tmp_path / 'run'}") == 0
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["settings"]
    # 8 × 8 blocks: 4 + 3 · 5 of 19, 4 + 3 · 9 of 32, all
    assert [(row["name"], row["alpha"], row["tokens"], row["slots"]) for row in rows] == [
        ("as trained", 0.3, 19.0, 19.0),
        ("budget 0.5", 0.5, 31.0, 31.0),
        ("budget 1", 1.0, 64.0, 64.0),
    ]
    assert all(row["ms"]["vit"] > 0 and "miou" in row["scores"] for row in rows)
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 10_000


def test_pretrained_weights_from_a_folder(command: Any, tmp_path: Path) -> None:
    make_scenes(tmp_path / "data", train=4, val=2, size=64, workers=1)
    vlm = tiny_qwen2_vl(image_size=64, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    vlm.model.save_pretrained(tmp_path / "vlm")
    vlm.tokenizer.save_pretrained(tmp_path / "vlm")
    tiny_sam2(image_size=64, hidden_size=64, width=8, mlp_dim=64).model.save_pretrained(tmp_path / "sam")
    given = ["+experiment=refcoco", "model=qwen2_vl", f"model.path={tmp_path / 'vlm'}", "model.max_pixels=4096"]
    given += ["model.min_pixels=64", "model.dtype=float32", "model.lora.rank=2", f"segmenter.path={tmp_path / 'sam'}"]
    given += ["vision_tokens=patches", "vision_tokens.alpha=.3", f"data.root={tmp_path / 'data'}", "trainer=cpu"]
    given += ["data.image_size=64", "data.num_workers=0", "data.limit_val=1", "data.samples_per_epoch=4"]
    given += ["trainer.val_check_interval=null", "module.meteor=false", "mask_caption.max_new_tokens=3"]
    given += ["trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command(train, *given) == 0
    assert "mean 19.0 of 64.0 tokens" in (tmp_path / "run" / "train.log").read_text()


def test_patches_of_a_model_with_one_grid_are_refused(
    command: Any, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["vision_tokens=patches", f"data.root={place / 'data'}", f"hydra.run.dir={tmp_path}"]
    assert command(train, *given) != 0
    assert "vision_tokens=patches does not go with InternVL" in capsys.readouterr().err


def test_latencies_of_its_crops_can_be_profiled(command: Any, tmp_path: Path) -> None:
    given = ["tokens", "profile", "model=qwen2_vl_tiny", "model.image_size=64", "vision_tokens.max_crops=2"]
    given += ["vision_tokens.margins=[2,2]", "rounds=1", "new_tokens=2", f"out={tmp_path / 'latency.json'}"]
    assert command(maskcap, *given, f"hydra.run.dir={tmp_path / 'run'}") == 0
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert [row["crops"] for row in rows] == [1, 2] and rows[0]["ms"]["vit"] > 0
