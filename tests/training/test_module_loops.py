"""Which loops a training step runs, and what a checkpoint keeps of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.scenes import make_scenes
from maskcap.data.sources import RefCOCOSource, SA1BSource
from maskcap.errors import ConfigError
from maskcap.loops.base import Ask, Loop, LoopPrediction, Need, StepContext, nothing_to_learn
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.module import MaskCaptionModule


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=4, val=2, size=64, workers=0)


class Remembers(Loop):
    """Counts its steps, and says one word of every region."""

    needs: Need | None = None
    generates = True

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.steps = torch.zeros(2)

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        self.steps += 1
        return nothing_to_learn(model)

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        count = len(batch.region_ids)
        return LoopPrediction(list(range(count)), ["word"] * count, mask_logits=batch.mask1 - 0.5, score="cycle")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps.clone()} if self.steps.any() else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"].clone()


def _trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    plain = {"max_epochs": 1, "enable_checkpointing": False, "logger": False, "accelerator": "cpu", "devices": 1}
    return L.Trainer(default_root_dir=folder, **{**plain, **quiet, **options})


def _data(scenes: Path, words: bool = True) -> MaskCaptionDataModule:
    root = scenes if words else scenes / "sa1b"
    source: Any = functools.partial(RefCOCOSource if words else SA1BSource, root)
    options: dict[str, Any] = {"image_size": 64, "regions_per_image": 2, "batch_size": 2, "samples_per_epoch": 4}
    return MaskCaptionDataModule({"one": source}, {"main": source}, limit_val=1, **options)


def test_a_loop_of_weight_0_only_validates(scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel) -> None:
    silent = Remembers(weight=0.0)
    loops: dict[str, Loop] = {"prompts": PromptToMask(), "silent": silent}
    module = MaskCaptionModule(tiny_model, loops, meteor=False)
    trainer = _trainer(tmp_path)
    trainer.fit(module, datamodule=_data(scenes, words=False))
    metrics = trainer.callback_metrics
    assert silent.steps.tolist() == [0, 0] and "train/silent/loss" not in metrics
    assert metrics["train/loss"] == metrics["train/prompts/loss"]
    assert metrics["val/cycle_miou"] == 1 and "val/prompt_miou" in metrics
    assert list(module.active_loops) == ["prompts"]


def test_a_loop_of_weight_0_needs_no_words(scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel) -> None:
    loops: dict[str, Loop] = {"prompts": PromptToMask(), "masks": CaptionToMask(weight=0.0)}
    _trainer(tmp_path, limit_val_batches=0).fit(
        MaskCaptionModule(tiny_model, loops, meteor=False), datamodule=_data(scenes, words=False)
    )
    loops["masks"].weight = 0.5
    with pytest.raises(ConfigError, match="masks needs phrases.*loops=cycle with a captioned source beside"):
        _trainer(tmp_path).fit(
            MaskCaptionModule(tiny_model, loops, meteor=False), datamodule=_data(scenes, words=False)
        )


def test_a_source_that_only_a_loop_of_weight_0_can_use_is_an_error(
    scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel
) -> None:
    data = MaskCaptionDataModule(
        {"refcoco": functools.partial(RefCOCOSource, scenes), "sa1b": functools.partial(SA1BSource, scenes / "sa1b")},
        image_size=64,
        samples_per_epoch=2,
    )
    loops: dict[str, Loop] = {"captions": MaskToCaption(), "silent": Remembers(weight=0.0)}
    wrong = r"\['captions'\] need words .*\['silent'\] have weight 0.*\['sa1b'\] have no captions: use loops=cycle"
    with pytest.raises(ConfigError, match=wrong):
        _trainer(tmp_path).fit(MaskCaptionModule(tiny_model, loops, meteor=False), datamodule=data)


def test_a_cycle_without_wordless_sources_is_warned_of(
    scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings(**options: Any) -> list[str]:
        caplog.clear()
        loops: dict[str, Loop] = {"captions": MaskToCaption(), "cycle": Cycle(max_new_tokens=2, **options)}
        module = MaskCaptionModule(tiny_model, loops, meteor=False)
        _trainer(tmp_path, limit_val_batches=0, limit_train_batches=1).fit(module, datamodule=_data(scenes))
        return [record.getMessage() for record in caplog.records if record.name.endswith("loop_checks")]

    (warning,) = warnings()
    assert "loop cycle learns from regions without captions" in warning and "['one']" in warning
    assert warnings(regions="all") == [] == warnings(weight=0.0)


def test_what_a_loop_needs_of_the_model_is_asked_before_the_first_step(
    scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel
) -> None:
    loops: dict[str, Loop] = {"words": MaskToCaption(), "cycle": Cycle(start=0.9, reference="adapters_off")}
    trainer = _trainer(tmp_path)
    with pytest.raises(ConfigError, match="adapters_off"):
        trainer.fit(MaskCaptionModule(tiny_model, loops, meteor=False), datamodule=_data(scenes))
    assert trainer.global_step == 0


def test_ranks_draw_noise_of_their_own_and_decide_alike(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the numbers drawn: of a seed of more than 32 bits torch's generator takes the lowest alone."""
    module = MaskCaptionModule(tiny_model, {"captions": MaskToCaption()}, meteor=False)
    module._world = 3
    drawn: list[tuple[float, float]] = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(MaskCaptionModule, "global_rank", rank)
        context = module.step_context(tiny_batch)
        noise, decision = (torch.rand((), generator=each).item() for each in (context.noise, context.generator))
        drawn.append((noise, decision))
        again = module.step_context(tiny_batch)
        assert torch.rand((), generator=again.noise).item() == noise
    assert len({noise for noise, _ in drawn} | {drawn[0][1]}) == 4 and len({decision for _, decision in drawn}) == 1


def test_without_any_weight_there_is_nothing_to_fit(scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel) -> None:
    module = MaskCaptionModule(tiny_model, {"silent": Remembers(weight=0.0)}, meteor=False)
    with pytest.raises(ConfigError, match=r"\['silent'\] all have weight 0"):
        _trainer(tmp_path).fit(module, datamodule=_data(scenes))
    (values,) = _trainer(tmp_path).validate(module, datamodule=_data(scenes), verbose=False)
    assert values["val/cycle_words"] == 1
    with pytest.raises(ConfigError, match="no loop to train: choose loops=.*cycle"):
        MaskCaptionModule(tiny_model, {}, meteor=False)


def test_a_checkpoint_keeps_the_states_of_loops_that_have_one(
    scenes: Path, tmp_path: Path, tiny_model: MaskCaptionModel
) -> None:
    def module(name: str = "counts") -> MaskCaptionModule:
        loops: dict[str, Loop] = {name: Remembers(), "prompts": PromptToMask()}
        return MaskCaptionModule(tiny_model, loops, meteor=False)

    trainer = _trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module(), datamodule=_data(scenes))
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    checkpoint = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    assert list(checkpoint["loop_states"]) == ["counts"]
    assert checkpoint["loop_states"]["counts"]["steps"].tolist() == [2, 2]

    resumed = module()
    _trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(
        resumed, datamodule=_data(scenes), ckpt_path=str(tmp_path / "whole.ckpt"), weights_only=False
    )
    counts: Any = resumed.loops["counts"]
    assert counts.steps.tolist() == [4, 4]  # two more steps

    for other, change in ((module("renamed"), {}), (module(), {"loop_states": {}}), (module(), {"loop_states": None})):
        kept = {name: value for name, value in {**checkpoint, **change}.items() if value is not None}
        other.on_load_checkpoint(kept)
        counts = next(iter(other.loops.values()))
        assert counts.steps.tolist() == [0, 0]
        saved: dict[str, Any] = {}
        other.on_save_checkpoint(saved)
        assert "loop_states" not in saved and saved["batches_seen"] == 2
