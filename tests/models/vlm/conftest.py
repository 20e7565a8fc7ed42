"""Fixtures of Qwen2-VL's tests: the smallest stock models, a tokenizer and images, all made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
from maskcap.models.vlm.adaptive_processor import AdaptiveQwen2VLImageProcessor, AdaptiveQwen2VLProcessor

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture
def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with Qwen2-VL's special tokens, padding on the left."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL], special_tokens=True)
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.fixture
def qwen_processor(qwen_tokenizer: PreTrainedTokenizerFast) -> AdaptiveQwen2VLProcessor:
    """The adaptive processor, selection off."""
    return AdaptiveQwen2VLProcessor(AdaptiveQwen2VLImageProcessor(), qwen_tokenizer)


@pytest.fixture
def qwen2_vl(qwen_tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """A random stock Qwen2-VL of 2 layers each."""
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 14}
    return _tiny(Qwen2VLForConditionalGeneration, Qwen2VLConfig, vision, qwen_tokenizer)


@pytest.fixture
def qwen2_5_vl(qwen_tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """A random stock Qwen2.5-VL: one layer of 112 px windows, one that sees all."""
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64, "intermediate_size": 48}
    vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
    return _tiny(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, vision, qwen_tokenizer)


@pytest.fixture(params=["qwen2_vl", "qwen2_5_vl"])
def qwen(request: pytest.FixtureRequest) -> Any:
    """Either model."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """`draw(height, width, seed)` → uint8 (H, W, 3): noise in the upper left, a ramp, the rest flat."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        image = np.full((height, width, 3), 90, dtype=np.uint8)
        image[:, width // 2 :] = np.arange(width - width // 2)[:, None] // 3 % 256
        noise = np.random.default_rng(seed).integers(0, 256, (height // 2, width // 2, 3))
        image[: height // 2, : width // 2] = noise
        return image

    return make


@pytest.fixture
def prompt() -> Callable[[int, str], str]:
    """`prompt(images, words)` → a turn of so many images, then words."""

    def make(images: int, words: str = "describe the region") -> str:
        return f"<|im_start|> what is{SLOT * images} {words}<|im_end|>"

    return make


def _tiny(kind: Any, config: Any, vision: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    ids = {f"{name}_token_id": token_id(tokenizer, f"<|{name}_pad|>") for name in ("image", "video")}
    ids |= {f"vision_{end}_token_id": token_id(tokenizer, f"<|vision_{end}|>") for end in ("start", "end")}
    model = kind(config(text_config=text, vision_config=vision, **ids)).eval()
    with torch.no_grad():  # the library's small weights would leave every position and image the same
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model
