"""The lines that a run logs about its images' tokens."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from maskcap.data.batch import Batch
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl
from maskcap.training.callbacks.patch_tokens import PatchTokens, summary
from maskcap.training.callbacks.seen_images import SeenImages
from maskcap.training.module import MaskCaptionModule
from maskcap.vision_tokens.settings import Patches, SingleView, VisionTokens

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture
def module(tiny_model: MaskCaptionModel) -> MaskCaptionModule:
    vlm = tiny_qwen2_vl(image_size=32, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    model = MaskCaptionModel(vlm, tiny_model.segmenter, grounding=True, max_new_tokens=2)
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    return MaskCaptionModule(model, loops, meteor=False)


def set_tokens(module: MaskCaptionModule, settings: VisionTokens) -> MaskCaptionModule:
    module.model.set_vision_tokens(settings)
    return module


@pytest.fixture
def loaders(tiny_batch: Batch, worded_batch: Batch) -> tuple[Any, Any]:
    """Two images of 16 blocks; the validation's second is of 4 × 1 blocks, and one only fills its batch."""
    val = replace(tiny_batch, sizes=[(64, 64), (32, 8)])
    filled = replace(tiny_batch, padding=(False, True))
    return tuple(DataLoader(each, batch_size=None) for each in ([worded_batch], [val, filled]))  # type: ignore[arg-type]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.endswith("callbacks.patch_tokens")]


def test_a_line_a_validation_and_one_a_fit(
    make_trainer: Any, module: MaskCaptionModule, loaders: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    make_trainer(PatchTokens()).fit(set_tokens(module, Patches(alpha=0.5)), *loaders)
    # 16 cells: a budget of 8 from 1 up by threes is 7; four in a column cannot be coarse
    val = "validation: 3 images, mean 6.0 of 12.0 tokens (50.0%), 4 … 7; budget, alpha=0.5"
    fit = "training: 4 images, mean 7.0 of 16.0 tokens (43.8%), 7 … 7; budget, alpha=0.5"
    assert lines(caplog) == [val, val, fit]  # two epochs


def test_a_fit_without_validations_counts_its_own_batches(
    make_trainer: Any, module: MaskCaptionModule, loaders: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    make_trainer(PatchTokens(), limit_val_batches=0).fit(set_tokens(module, Patches(alpha=0.5)), *loaders)
    assert lines(caplog) == ["training: 4 images, mean 7.0 of 16.0 tokens (43.8%), 7 … 7; budget, alpha=0.5"]


def test_without_patches_it_says_nothing(
    make_trainer: Any, module: MaskCaptionModule, loaders: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    make_trainer(PatchTokens()).fit(set_tokens(module, SingleView()), *loaders)
    assert lines(caplog) == []


@pytest.mark.parametrize(("settings", "mean"), [(SingleView(), (16 + 4 + 16) / 3), (Patches(alpha=0.5), 6.0)])
def test_a_sweep_counts_the_tokens_of_one_view(
    make_trainer: Any, module: MaskCaptionModule, loaders: Any, settings: VisionTokens, mean: float
):
    seen = SeenImages(2)
    make_trainer(seen).validate(set_tokens(module, settings), loaders[1], verbose=False)
    assert seen.mean_costs(module.model) == (mean, mean) and len(seen.cases) == 2


def test_how_a_method_is_named():
    counted = Counter({(10, 16): 3, (16, 16): 1})
    assert summary("training", counted, Patches(method="v1")).endswith("mean 11.5 of 16.0 tokens (71.9%), 10 … 16; v1")
    assert summary("training", counted, Patches(method="v2", alpha=1)).endswith("; v2, alpha=1")


def test_images_that_no_loop_learns_from_are_not_counted(
    make_trainer: Any, module: MaskCaptionModule, tiny_batch: Batch, loaders: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    loader: Any = DataLoader([tiny_batch], batch_size=None)  # type: ignore[arg-type]
    make_trainer(PatchTokens(), limit_val_batches=0).fit(set_tokens(module, Patches(alpha=0.5)), loader, loaders[1])
    assert lines(caplog) == ["training: 2 images, mean 7.0 of 16.0 tokens (43.8%), 7 … 7; budget, alpha=0.5"]
