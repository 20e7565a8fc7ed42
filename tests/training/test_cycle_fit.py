"""The cycle in real fits on drawn scenes: exact resume with noise and frozen copy; its metrics in every layout."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from maskcap.cli.train import main as train
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.rewritten import without_captions
from maskcap.data.scenes import make_scenes
from maskcap.data.sources import RefCOCOSource
from maskcap.loops.base import Curriculum, Loop
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2
from maskcap.training.module import MaskCaptionModule


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes in all layouts; enough of them for several videos."""
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=40, val=3, size=64, workers=1)


def fit(scenes: Path, folder: Path, checkpoint: Path | None = None, **trainer: Any) -> L.Trainer:
    """Two epochs of four steps on one labelled and one unlabelled image a batch, the cycle from the second step on."""
    L.seed_everything(0, verbose=False)
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64), grounding=True)
    cycle = Cycle(start=0.1, max_new_tokens=4, top_k=30, reference="copy", kl_weight=0.1, final_temperature=0.5)
    loops: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask(), "cycle": cycle}
    refcoco = functools.partial(RefCOCOSource, scenes)
    data = MaskCaptionDataModule(
        {"labelled": refcoco, "unlabelled": functools.partial(without_captions, refcoco)},
        image_size=64,
        regions_per_image=2,
        batch_size=2,
        samples_per_epoch=8,
        spread=True,
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "logger": False}
    run = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        deterministic=True,
        limit_val_batches=0,
        enable_checkpointing=False,
        **quiet,  # type: ignore[arg-type]
        **trainer,
    )
    module = MaskCaptionModule(model, loops, curriculum=Curriculum(image_token_dropout=0.25), meteor=False)
    run.fit(
        module,
        datamodule=data,
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True if checkpoint else None,
    )
    return run


def test_resume_ends_with_the_undisturbed_runs_weights_and_copy(scenes: Path, tmp_path: Path) -> None:
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            trainer.should_stop = True

    whole = fit(scenes, tmp_path / "whole")
    half = fit(scenes, tmp_path / "half", callbacks=[Stop()])
    rest = fit(scenes, tmp_path / "rest", tmp_path / "half.ckpt")
    assert half.global_step == 4 and rest.global_step == whole.global_step == 8
    assert whole.callback_metrics["train/cycle/kl"] > 0 and whole.callback_metrics["train/cycle/regions"] == 2
    a, b = whole.lightning_module, rest.lightning_module
    assert isinstance(a, MaskCaptionModule) and isinstance(b, MaskCaptionModule)
    copies = [module.loops["cycle"].state_dict()["copy"] for module in (a, b)]
    for one, other in ((a.state_dict(), b.state_dict()), (copies[0], copies[1])):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    moved = a.state_dict()["model.region_marker"]
    assert not torch.equal(copies[0]["region_marker"], moved)


TINY = ["model=tiny", "segmenter=tiny", "trainer=cpu", "data.image_size=64", "model.image_size=64", "logger=csv"]
TINY += ["segmenter.image_size=64", "model.hidden_size=32", "mask_caption.max_new_tokens=3", "module.meteor=false"]
TINY += ["+trainer.limit_train_batches=2", "trainer.accumulate_grad_batches=1", "trainer.log_every_n_steps=1"]
TINY += [
    "data.num_workers=0",
    "data.limit_val=2",
    "data.samples_per_epoch=4",
    "trainer.val_check_interval=null",
    "loops.cycle.start=0.0",
]


@pytest.mark.parametrize(
    ("experiment", "metrics"),
    [
        ("cycle_sa1b", {"val/miou", "val/cycle_miou", "val/cycle_ciou_sa1b", "val/cycle_distinct_sa1b"}),
        ("cycle_sav", {"val/miou", "val/cycle_miou", "val/cross_frame_miou_sav", "val/cross_frame_ciou_sav"}),
        ("demo_cycle", {"val/miou", "val/cycle_miou", "val/miou_content", "val/caption_exact"}),
    ],
)
def test_experiments(experiment: str, metrics: set[str], command: Any, scenes: Path, tmp_path: Path) -> None:
    options = [f"+experiment={experiment}", f"data.root={scenes}", f"hydra.run.dir={tmp_path}", *TINY]
    if experiment == "demo_cycle":
        options += ["data.prepare=null", "callbacks.scene_probes.limit=2", "trainer.max_epochs=1"]
    assert command(train, *options, "data.batch_size=2") == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics <= set(written), metrics - set(written)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    logged = {"entropy", "length", "kl", "distinct", "temperature", "truncated", "empty", "mask_ce"}
    assert {f"train/cycle/{name}" for name in logged} <= set(header)


def test_qwen2_vl_cycles_too(command: Any, scenes: Path, tmp_path: Path) -> None:
    """With half of the tokens, so that rotary positions and ragged patches meet pseudo captions."""
    sizes = ["data.image_size=64", "model.image_size=64", "segmenter.image_size=64", "model.hidden_size=32"]
    short = [option for option in TINY if option.startswith(("+trainer", "data.", "mask_", "module.", "loops."))]
    options = ["+experiment=demo_cycle", "model=qwen2_vl_tiny", "vision_tokens=patches", "vision_tokens.method=budget"]
    options += ["vision_tokens.alpha=0.5", f"data.root={scenes}", "data.prepare=null", "callbacks.scene_probes=null"]
    options += ["trainer.max_epochs=1", "data.batch_size=2", "loops.cycle.reference=copy", "loops.cycle.kl_weight=0.1"]
    assert command(train, *options, *sizes, *short, f"hydra.run.dir={tmp_path}") == 0
    assert "val/cycle_miou" in json.loads((tmp_path / "metrics.json").read_text())
