"""Fixtures of the models' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl
from maskcap.models.vlm.interface import ImageTokens
from maskcap.vision_tokens.layout import grid_layout
from maskcap.vision_tokens.settings import Patches, Tiling

T = TypeVar("T")


@pytest.fixture
def saved_bytes() -> Callable[[Callable[[], T]], tuple[T, int]]:
    """`saved_bytes(run)` → what `run` returns, and the size of what autograd keeps for its backward."""

    def measure(run: Callable[[], T]) -> tuple[T, int]:
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = run()
        return out, sum(storage.nbytes() for storage in storages.values())

    return measure


@pytest.fixture
def image_tokens() -> Callable[[torch.Tensor], ImageTokens]:
    """`image_tokens(features)`: features (B, G·G, C) as the tokens of one view an image."""

    def wrap(features: torch.Tensor) -> ImageTokens:
        side = round(features.shape[1] ** 0.5)
        return ImageTokens(features, (grid_layout(side, side),) * features.shape[0])

    return wrap


@pytest.fixture
def tiled_model(tiny_model: MaskCaptionModel) -> MaskCaptionModel:
    """The tiny model with a global view and up to four crops of 32 px, 16 px apart: 8 × 8 px a token."""
    tiling = Tiling(max_crops=4, margins=(2, 2))
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, True, tiling, max_new_tokens=4)
    model.load_state_dict(tiny_model.state_dict())
    return model


@pytest.fixture
def qwen_model(tiny_model: MaskCaptionModel) -> MaskCaptionModel:
    """Qwen2-VL with up to 16 tokens of 8 px an image, at the image's own aspect ratio."""
    vlm = tiny_qwen2_vl(image_size=32, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskCaptionModel(vlm, tiny_model.segmenter, grounding=True, max_new_tokens=4)


@pytest.fixture
def patches_model(qwen_model: MaskCaptionModel) -> MaskCaptionModel:
    """The same with as many as 7 of 10 tokens, chosen by entropy."""
    qwen_model.set_vision_tokens(Patches(alpha=0.7, levels=2))
    return qwen_model


@pytest.fixture(params=["tiny_model", "tiled_model", "qwen_model", "patches_model"])
def any_model(request: pytest.FixtureRequest) -> MaskCaptionModel:
    """InternVL with one view an image, with crops; Qwen2-VL with all tokens, with chosen patches."""
    return request.getfixturevalue(request.param)
