"""`maskcap tokens sweep` as a user runs it: on checkpoints with a single view and with crops, and out of memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from maskcap.cli.eval import main as evaluate
from maskcap.cli.main import main as maskcap
from maskcap.cli.train import main as train
from maskcap.vision_tokens.latency import COMPONENTS

# 64 px images: with margins of 4 patches of 4 px on a 64 px view the window is 32 px
DEMO = ["data.prepare.train=8", "data.prepare.val=3", "data.prepare.size=128", "data.image_size=64", "data.limit_val=2"]
DEMO += ["data.samples_per_epoch=4", "data.batch_size=2", "model.image_size=64", "model.hidden_size=32"]
DEMO += ["model.patch_size=8", "segmenter.image_size=64", "segmenter.hidden_size=64", "callbacks.scene_probes=null"]
DEMO += ["module.meteor=false", "mask_caption.max_new_tokens=3", "trainer.max_epochs=1", "trainer=cpu"]
QUICK = ["images=1", "rounds=1", "new_tokens=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture
def checkpoint(command: Any, place: Path) -> Callable[..., Path]:
    """`checkpoint("single")`: of a run that lasts two steps, made once."""

    def make(kind: str, *options: str) -> Path:
        run = place / kind
        if not run.exists():
            given = [*DEMO, *options, f"vision_tokens={kind}", f"data.root={place / 'data'}", f"hydra.run.dir={run}"]
            assert command(train, *given) == 0
        return run / "checkpoints" / "last.ckpt"

    return make


@pytest.fixture
def sweep(command: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`sweep(checkpoint, *overrides)` → what is in sweep.json."""

    def run(checkpoint: Path, *overrides: str) -> dict[str, Any]:
        folder = tmp_path / "sweep"
        given = [f"checkpoint={checkpoint}", *QUICK, "data.limit_val=2", *overrides, f"out={folder}"]
        assert command(maskcap, "tokens", "sweep", *given, f"hydra.run.dir={tmp_path / 'run'}") == 0
        with Image.open(folder / "sweep.png") as image:
            assert image.size[0] > 1000
        return json.loads((folder / "sweep.json").read_text())

    return run


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """`little_memory(k)`: the vision tower runs out of memory above k views."""
    handles: list[Any] = []

    def limit(most: int) -> None:
        def encode(module: Any, inputs: Any) -> None:
            if type(module).__name__ == "InternVLVisionEmbeddings" and len(inputs[0]) > most:
                raise torch.OutOfMemoryError(f"CUDA out of memory with {len(inputs[0])} views\nand more lines")

        handles.append(torch.nn.modules.module.register_module_forward_pre_hook(encode))

    yield limit
    for handle in handles:
        handle.remove()


def test_a_single_view_s_checkpoint_over_crops(
    command, checkpoint, sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    last = checkpoint("single")
    capsys.readouterr()
    found = sweep(last, "crops=[1,4]", "vision_tokens.margins=[2,2]")
    shown = capsys.readouterr().out
    assert "Scores" in shown and "2 × 2 100%" in shown and "sweep.png" in shown
    rows = {row["name"]: row for row in found["settings"]}
    assert list(rows) == ["as trained", "1 crop", "4 crops"]
    # 8 × 8 tokens a view; 128 px images: (128 - 32) / 32 = 3 crops a side, of which 4 allow 2 × 2, 12 × 12 tokens
    assert [(row["slots"], row["tokens"]) for row in rows.values()] == [(64, 64), (128, 128), (320, 208)]
    assert rows["4 crops"]["tilings"] == {"2x2": 4} and rows["as trained"]["tilings"] == {}
    for row in rows.values():
        assert set(row["ms"]) == {*COMPONENTS, "total"} and row["batch_size"] == 16 and row["note"] == ""
    assert command(evaluate, f"checkpoint={last}", "data.limit_val=2", f"hydra.run.dir={tmp_path / 'eval'}") == 0
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    scores = {f"val/{name}": value for name, value in rows["as trained"]["scores"].items()}
    assert scores and scores == {name: value for name, value in metrics.items() if name.startswith("val/")}


def test_half_the_batch_where_memory_runs_out(
    checkpoint, sweep, little_memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    last = checkpoint("tiling", "vision_tokens.margins=[2,2]", "vision_tokens.max_crops=2")
    little_memory(6)
    batch = ["data.val_batch_size=2", "baseline=false"]
    capsys.readouterr()
    rows = sweep(last, "tokens=[128,320,640]", *batch)["settings"]
    shown = capsys.readouterr().out
    # 2 images of 2, 5 and 10 views: all at once, one at a time, not at all
    assert [row["tried_batch_sizes"] for row in rows] == [[2], [2, 1], [2, 1]]
    assert [row["batch_size"] for row in rows] == [2, 1, None]
    assert [row["tokens"] for row in rows] == [128, 208, None] and rows[2]["ms"] is None and not rows[2]["scores"]
    assert rows[1]["note"] == "memory ran out, batch size 2 → 1" and rows[1]["ms"]["total"] > 0
    assert "320 tokens: memory ran out, batch size 2 → 1" in shown and "none fits" in shown and "2 → 1" in shown
    log = (tmp_path / "run" / "tokens.log").read_text()
    assert "320 tokens: memory ran out with 2 images a batch (CUDA out of memory with 10 views); again with 1" in log
    assert "640 tokens: memory ran out with one image a batch" in log and "it is left out" in log


def test_scores_do_not_depend_on_the_batch_that_fits(checkpoint, sweep, little_memory):
    last = checkpoint("tiling", "vision_tokens.margins=[2,2]", "vision_tokens.max_crops=2")
    options = ["crops=[4]", "baseline=false", "data.val_batch_size=2"]
    (free,) = sweep(last, *options)["settings"]
    little_memory(6)
    (tight,) = sweep(last, *options)["settings"]
    assert (free["batch_size"], tight["batch_size"]) == (2, 1)
    assert tight["scores"] == pytest.approx(free["scores"], abs=1e-3)


def test_a_target_holds_for_the_baseline_while_its_table_is_there(
    command, checkpoint, sweep, place: Path, capsys: pytest.CaptureFixture[str]
):
    table = place / "latency.json"
    of_model = [each for each in DEMO if each.startswith(("model", "segmenter."))]
    given = [*of_model, "vision_tokens.margins=[2,2]", "vision_tokens.max_crops=2", "rounds=1", "device=cpu"]
    assert command(maskcap, "tokens", "profile", *given, f"out={table}", f"hydra.run.dir={place / 'profile'}") == 0
    # any model keeps this target with 2 crops, and of 9 that square images would take
    target = ["vision_tokens.target_latency_ms=1e6", f"vision_tokens.latency_table={table}"]
    run = ["vision_tokens=tiling", "vision_tokens.margins=[2,2]", "vision_tokens.max_crops=9", *target]
    last = place / "target" / "checkpoints" / "last.ckpt"
    assert command(train, *DEMO, *run, f"data.root={place / 'data'}", f"hydra.run.dir={place / 'target'}") == 0
    log = (place / "target" / "train.log").read_text()
    assert "at most 2 of 9 crops" in log and "validation: 4 images, 100.0% of 1 × 1 crops" in log
    (as_trained, more) = sweep(last, "crops=[9]")["settings"]
    assert (as_trained["tilings"], more["tilings"]) == ({"1x1": 4}, {"3x3": 4})
    table.unlink()
    capsys.readouterr()
    (as_trained, more) = sweep(last, "crops=[9]")["settings"]
    assert as_trained["tilings"] == {"3x3": 4} and "latency.json is gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give crops=[1,2,4,6], tokens=[512,768], or alphas=[.3,.5,1]"),
        (["crops=[1]", "tokens=[128]"], "one of the three lists"),
        (["tokens=[100]", "vision_tokens.margins=[2,2]"], "vision_tokens=100: a view has 64 tokens"),
        (["crops=[0]", "vision_tokens.margins=[2,2]"], "max_crops=0: take at least 1"),
        (["crops=[1]", "new_tokens=1"], "new_tokens=1: needs at least 2"),
        (["crops=[1]", "vision_tokens=single"], "leave vision_tokens=tiling"),
        (["alphas=[.5]", "vision_tokens=patches", "vision_tokens.method=v2"], "vision_tokens=patches beside alphas"),
        (["alphas=[.5]"], "vision_tokens=patches does not go with InternVL"),
    ],
)
def test_mistakes_are_found_before_anything_is_evaluated(
    command, checkpoint, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [f"checkpoint={checkpoint('single')}", *options, f"hydra.run.dir={tmp_path / 'run'}"]
    assert command(maskcap, "tokens", "sweep", *given) == 2
    assert message in capsys.readouterr().err
