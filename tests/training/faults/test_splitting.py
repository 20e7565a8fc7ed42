"""A step in parts learns what the whole batch does, of conversations and videos too; alone, without a process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from maskcap.data.batch import Batch
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.module import MaskCaptionModule
from tests.training.faults.broken import NoRoomToTalk


class Gradients(L.Callback):
    """Keeps those of the last optimizer step, by the parameter's name."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """After the backward."""
        self.found = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


def _step(batch: Batch, model: MaskCaptionModel, dialogue: NoRoomToTalk, folder: Path) -> tuple[float, dict]:
    """One step of all loops: train/loss and the gradients."""
    loops = {"dialogue": dialogue, "caption_to_mask": CaptionToMask(), "mask_to_caption": MaskToCaption()}
    module = MaskCaptionModule(copy.deepcopy(model), loops, meteor=False, on_out_of_memory="split")
    gradients = Gradients()
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_steps=1,
        callbacks=[gradients],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    return trainer.callback_metrics["train/loss"].item(), gradients.found


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("in_backward", [False, True])
def test_conversations_and_videos_in_parts(
    in_backward: bool, tiny_model: MaskCaptionModel, talks: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A grounded answer, a video with a phrase and a conversation, a text: each a part of its own."""
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter)  # a grounding map contrasts a part's own regions
    loss, whole = _step(talks, model, NoRoomToTalk(fit=3), tmp_path)
    assert "out of memory" not in caplog.text
    in_parts, parts = _step(talks, model, NoRoomToTalk(fit=1, in_backward=in_backward), tmp_path)
    assert "made again in 3 parts" in caplog.text
    assert in_parts == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == parts.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)
