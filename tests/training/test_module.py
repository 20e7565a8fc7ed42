"""A real fit on drawn scenes: metrics, exact resume, clear errors."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from maskcap.data.batch import Batch, normalise
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.holdout import RecordSubset
from maskcap.data.scenes import make_scenes
from maskcap.data.sources import RefCOCOSource, SA1BSource
from maskcap.errors import ConfigError
from maskcap.loops.base import Curriculum
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2
from maskcap.training.module import MaskCaptionModule
from maskcap.vision_tokens.settings import Tiling


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=12, val=3, size=64, workers=1)


def _data(scenes: Path) -> MaskCaptionDataModule:
    return MaskCaptionDataModule(
        {"refcoco": functools.partial(RefCOCOSource, scenes)},
        {
            "main": functools.partial(RefCOCOSource, scenes, split="val"),
            "content": functools.partial(RefCOCOSource, scenes, dataset="refcoco+", split="val"),
        },
        image_size=64,
        regions_per_image=2,
        batch_size=2,
        samples_per_epoch=8,
    )


def _module(**options: Any) -> MaskCaptionModule:
    L.seed_everything(0, verbose=False)
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)
    segmenter = tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64)
    model = MaskCaptionModel(vlm, segmenter, grounding=True, max_new_tokens=3)
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    return MaskCaptionModule(model, options.pop("loops", loops), meteor=False, **options)


def _trainer(folder: Path, **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": False, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return L.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **{**defaults, **quiet, **options})


def test_fit_validates_every_set_by_name(scenes: Path, tmp_path: Path) -> None:
    module = _module(describe_sets=["main"], curriculum=Curriculum(0.3, 0.25, 0.3))
    trainer = _trainer(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=_data(scenes))
    metrics = trainer.callback_metrics
    for name in ("val/caption_exact", "val/miou", "val/ciou", "val/miou_content", "train/caption_to_mask/loss"):
        assert name in metrics
    assert "val/caption_exact_content" not in metrics
    sets = {prediction.set_name for prediction in module.val_predictions}
    assert sets == {"main", "content"}
    of_main = [p for p in module.val_predictions if p.set_name == "main"]
    assert all(p.iou is not None and p.true_rle and p.size == (64, 64) for p in of_main)
    # a region comes once for each of its phrases, and once with its caption
    described = [(p.key, p.region_id) for p in of_main if p.predicted_caption is not None]
    assert len(described) == len(set(described)) == len({(p.key, p.region_id) for p in of_main}) < len(of_main)
    cut = [p.truncated for p in of_main if p.truncated is not None]
    assert metrics["val/caption_truncated"] == pytest.approx(sum(cut) / len(described))
    image, true, predicted, prediction = module.val_pictures[0]
    assert image.shape == (64, 64, 3) and true.shape == predicted.shape == (64, 64) and prediction.iou is not None


def test_resume_ends_with_the_undisturbed_runs_weights(scenes: Path, tmp_path: Path) -> None:
    def run(max_epochs: int, folder: str, checkpoint: str | None = None) -> L.Trainer:
        trainer = _trainer(tmp_path / folder, max_epochs=max_epochs, limit_val_batches=0, deterministic=True)
        module = _module()
        trainer.fit(module, datamodule=_data(scenes), ckpt_path=checkpoint, weights_only=False if checkpoint else None)
        return trainer

    # the schedule's length must be the same in both halves, so the first run is stopped, not shortened
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            trainer.should_stop = True

    whole = run(2, "whole")
    half = _trainer(tmp_path / "half", limit_val_batches=0, deterministic=True, callbacks=[Stop()])
    half.fit(_module(), datamodule=_data(scenes))
    rest = run(2, "rest", str(tmp_path / "half.ckpt"))
    assert half.global_step == 4 and rest.global_step == whole.global_step == 8
    a, b = whole.lightning_module.state_dict(), rest.lightning_module.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loop_that_needs_captions_on_a_source_without_them_is_an_error(scenes: Path, tmp_path: Path) -> None:
    data = MaskCaptionDataModule({"sa1b": functools.partial(SA1BSource, scenes / "sa1b")}, image_size=64)
    with pytest.raises(ConfigError, match="sa1b.*loops=prompt_to_mask"):
        _trainer(tmp_path).fit(_module(), datamodule=data)


class Answers(RecordSubset):
    """Captions that single nothing out, as Osprey's conversations."""

    has_phrases = False  # type: ignore[assignment]


def test_captions_that_are_no_phrases_cannot_ask_for_masks(scenes: Path, tmp_path: Path) -> None:
    def answers() -> Answers:
        return Answers(RefCOCOSource(scenes), range(4))

    with pytest.raises(ConfigError, match=r"caption_to_mask needs phrases.*\['chat'\].*loops=mask_to_caption"):
        _trainer(tmp_path).fit(_module(), datamodule=MaskCaptionDataModule({"chat": answers}, image_size=64))
    mixed = {"chat": answers, "refcoco": functools.partial(RefCOCOSource, scenes)}
    with pytest.raises(ConfigError, match=r"\['chat'\]"):
        module = _module(loops={"caption_to_mask": CaptionToMask()})
        _trainer(tmp_path).fit(module, datamodule=MaskCaptionDataModule(mixed, image_size=64))
    data = MaskCaptionDataModule(mixed, image_size=64, samples_per_epoch=2)
    assert data.has_phrases("train") == {"chat": False, "refcoco": True}
    _trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(_module(), datamodule=data)


class Seeds(L.Callback):
    """The seed of every batch's random numbers, and what it draws from the global generator, as dropout does."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.drawn: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.step_context(batch).generator.initial_seed())
        self.drawn.append(torch.rand(1).item())


def test_every_batch_draws_its_own_numbers_over_accumulation_and_resume(scenes: Path, tmp_path: Path) -> None:
    def run(folder: str, checkpoint: str | None = None, **options: Any) -> tuple[Seeds, dict[str, torch.Tensor]]:
        seeds = Seeds()
        callbacks = [seeds, *options.pop("callbacks", [])]
        accumulate = options.pop("accumulate", 2)
        trainer = _trainer(
            tmp_path / folder, limit_val_batches=0, accumulate_grad_batches=accumulate, callbacks=callbacks, **options
        )
        module = _module(seed=3, curriculum=Curriculum(image_token_dropout=0.5))
        trainer.fit(module, datamodule=_data(scenes), ckpt_path=checkpoint, weights_only=False if checkpoint else None)
        return seeds, module.state_dict()

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 1 and not (tmp_path / "one.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "one.ckpt")

    seeds, weights = run("whole", callbacks=[Save()])
    assert seeds.seen == [3_000_009 + i for i in range(8)]  # 2 epochs of 4 batches, 4 steps
    rest, resumed = run("rest", str(tmp_path / "one.ckpt"))
    assert rest.seen == seeds.seen[2:] and rest.drawn == seeds.drawn[2:]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert run("plain", accumulate=1, max_epochs=1)[0].seen == seeds.seen[:4]


def test_masks_without_words_train_sam2_from_prompts(scenes: Path, tmp_path: Path) -> None:
    source = functools.partial(SA1BSource, scenes / "sa1b")
    data = MaskCaptionDataModule({"sa1b": source}, {"main": source}, image_size=64, samples_per_epoch=2, limit_val=2)
    trainer = _trainer(tmp_path, max_epochs=1)
    trainer.fit(_module(loops={"prompt_to_mask": PromptToMask()}), datamodule=data)
    assert "val/prompt_miou" in trainer.callback_metrics and "val/miou" not in trainer.callback_metrics


def test_no_loop_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no loop to train"):
        _module(loops={})


def test_a_rank_without_a_share_of_the_last_batch_steps_without_learning(scenes: Path, tmp_path: Path) -> None:
    """Padding has gradients, all of them zero, so that the other ranks' gradients can be averaged with them."""
    data = _data(scenes)

    class Padded(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            assert gradients and all((gradient == 0).all() for gradient in gradients)

    def pad(batch: Batch, index: int) -> Batch:
        return replace(normalise(batch), padding=(True,) * len(batch.keys))

    data.on_after_batch_transfer = pad  # type: ignore[method-assign]
    _trainer(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[Padded()]).fit(_module(), datamodule=data)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_any_precision(precision: str, scenes: Path, tmp_path: Path) -> None:
    """Fused AdamW and clipping go together; SGD-like proof of the clip: the norm that the optimizer sees."""
    norms = []

    class Norm(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))

        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients))

    module = _module()
    options = {"precision": precision, "gradient_clip_val": 0.5, "max_steps": 2, "limit_val_batches": 0}
    _trainer(tmp_path, callbacks=[Norm()], **options).fit(module, datamodule=_data(scenes))
    assert module.optimizers().param_groups[0]["fused"]  # type: ignore[union-attr]
    before, after = norms[::2], norms[1::2]
    assert min(before) > 0.5 and all(norm == pytest.approx(0.5, rel=1e-3) for norm in after)


def test_crops_are_cut_by_the_images_own_sizes(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """In training and in validation: the batch's images are square, whatever the records' sizes."""
    tiling = Tiling(max_crops=4, margins=(2, 2))
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, True, tiling, max_new_tokens=2)
    batch = replace(tiny_batch, sizes=[(64, 32), (32, 48)])
    seen = []
    encode = model.encode_image

    def watch(*asked: Any) -> Any:
        tokens = encode(*asked)
        seen.append([layout.tiling for layout in tokens.layouts])
        return tokens

    model.encode_image = watch  # type: ignore[method-assign]
    loops: dict[str, Any] = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    module = MaskCaptionModule(model, loops, meteor=False)
    context = module.step_context(batch)
    assert [layout.tiling for layout in context.encoded.tokens.layouts] == [(3, 1), (1, 2)]
    module.validation.update(model.eval(), batch, 0)
    assert seen == [[(3, 1), (1, 2)]] * 2
