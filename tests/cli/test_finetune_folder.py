"""`experiment=finetune_folder data.root=…` on a drawn folder: what the README promises of a user's own images."""

from __future__ import annotations

import json
from pathlib import Path

from maskcap.data.scenes.folder import write_folder
from tests import processes
from tests.cli.test_conf import checked, composed

QUICK = ["data.image_size=64", "model.image_size=64", "segmenter.image_size=64", "model.hidden_size=32"]
QUICK += ["data.batch_size=2", "data.samples_per_epoch=4", "data.num_workers=0", "trainer.log_every_n_steps=1"]
QUICK += ["mask_caption.max_new_tokens=3", "module.meteor=false", "callbacks.pictures=null", "logger=csv"]


def test_the_images_are_as_large_as_the_segmenter_wants_them():
    assert checked("experiment=finetune_folder")["data"]["image_size"] == 128
    assert checked("experiment=finetune_folder", "segmenter.image_size=256")["data"]["image_size"] == 256
    pretrained = composed("experiment=finetune_folder", "model=internvl", "segmenter=sam2", "trainer=gpu")
    assert (pretrained.data.image_size, pretrained.optimizer.lr, pretrained.trainer.precision) == (
        1024,
        4e-5,
        "bf16-mixed",
    )
    assert not any(pretrained.module.curriculum.values())


def test_one_command_trains_both_loops_and_validates_on_what_is_held_out(tmp_path: Path):
    root = write_folder(tmp_path / "my_images", images=6, size=64)
    lines = (root / "captions.jsonl").read_text().splitlines(keepends=True)
    # Two of the five images that train have masks alone, which are no reason to stop.
    kept = [each for each in lines if "scene_001" not in each and "scene_003" not in each]
    (root / "captions.jsonl").write_text("".join(kept))
    given = ["experiment=finetune_folder", f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}", *QUICK]
    assert processes.run_ranks(processes.train, *given, output=tmp_path / "out") == [0]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "train source 'main': 5 of 5 records" in log and "val source 'main': 1 of 1 records" in log
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["step"] == 4 and {"val/miou", "val/caption_f1"} <= metrics.keys()
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "train/caption_to_mask/loss" in columns and "train/mask_to_caption/loss" in columns
