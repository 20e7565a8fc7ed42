"""Fixtures that several folders share: the smallest real models, and a batch drawn by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from maskcap.data.batch import Batch
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2
from tests.talks import talks_beside

torch.set_num_threads(1)  # models this small lose more than they gain from threads, and CI has two cores


@pytest.fixture
def tiny_model() -> MaskCaptionModel:
    """Both Hugging Face classes at 32 px: 4×4 image tokens, 8×8 low-res masks."""
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)
    segmenter = tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64)
    with torch.random.fork_rng(devices=[]):  # the same weights whatever other tests drew
        torch.manual_seed(0)
        return MaskCaptionModel(vlm, segmenter, grounding=True, max_new_tokens=4)


@pytest.fixture
def tiny_batch() -> Batch:
    """Two images of 64 px, three regions (two of the first image), normalised values; the last region has no words."""
    generator = torch.Generator().manual_seed(0)
    mask1 = torch.zeros(3, 64, 64)
    mask1[0, 8:40, 8:40] = 1
    mask1[1, 30:60, 40:64] = 1
    mask1[2, 0:20, 30:50] = 1
    return Batch(
        image1=torch.randn(2, 3, 64, 64, generator=generator),
        mask1=mask1,
        region_image=torch.tensor([0, 0, 1]),
        caption=["large red circle at the top left", "small blue cross", None],
        phrase=["large red circle", "small blue cross", None],
        question=[None, None, None],
        references=[("large red circle at the top left",), ("small blue cross",), ()],
        phrases=[("large red circle",), ("small blue cross", "cross"), ()],
        region_ids=["a", "b", "c"],
        keys=["set/train/0", "set/train/1"],
        sources=["set", "set"],
        sizes=[(64, 64), (64, 64)],
    )


@pytest.fixture
def worded_batch(tiny_batch: Batch) -> Batch:
    """The same with a caption for the last region: a step leaves out images of which it learns nothing."""
    return replace(tiny_batch, caption=[*tiny_batch.caption[:2], "large green square"])


@pytest.fixture
def talks(tiny_batch: Batch) -> Batch:
    """Three conversations, see `talks_beside`."""
    return talks_beside(tiny_batch)


@pytest.fixture
def command() -> Iterator[Callable[..., int]]:
    """`command(main, *arguments)` → exit code, run in this process; Hydra's logging is undone at the end."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))

    def call(main: Callable[[list[str]], object], *arguments: str) -> int:
        try:
            main(list(arguments))
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        return 0

    yield call
    for handler in list(root.handlers):
        if handler not in before[1]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[0])
    for handler in before[1]:
        if handler not in root.handlers:
            root.addHandler(handler)
    GlobalHydra.instance().clear()
