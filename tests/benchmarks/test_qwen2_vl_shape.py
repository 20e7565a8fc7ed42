"""Qwen2-VL-2B's shape on the meta device: parameters as published, and a part of it that is one."""

from __future__ import annotations

import pytest

from benchmarks.qwen2_vl_shape import build_qwen2_vl, wordy_qwen_conversation
from maskcap.models.adapters import count_parameters
from maskcap.models.conversation import QWEN_IMAGE, tokenise
from maskcap.models.tiny_tokenizer import tiny_tokenizer


def test_qwen2_vl_2b_has_the_published_number_of_parameters() -> None:
    vlm = build_qwen2_vl("2b", "meta").vlm
    assert count_parameters(vlm)[0] == pytest.approx(2_208_985_600, rel=0.001)  # model.safetensors, bfloat16
    assert vlm.image_size == 896 and vlm.block == 28


def test_a_slice_has_the_same_widths_and_fewer_blocks() -> None:
    whole, part = (build_qwen2_vl(name, "meta", blocks=1).vlm for name in ("2b", "slice"))
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    of_part = {name: parameter.shape for name, parameter in part.named_parameters()}
    assert all(shapes[name] == shape for name, shape in of_part.items() if "embed_tokens" not in name)
    blocks = {name.split("blocks.")[1][0] for name in of_part if "blocks." in name}
    layers = {name.split("layers.")[1][0] for name in of_part if "layers." in name}
    assert blocks == layers == {"0"}


def test_the_conversation_has_as_many_tokens_as_qwens() -> None:
    tokenizer = tiny_tokenizer(("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"))
    conversation = wordy_qwen_conversation()
    (prefix,) = tokenise(tokenizer, [conversation.prefix])
    # <|im_start|> system \n You are a helpful assistant . <|im_end|> \n <|im_start|> user \n, two around the image, \n
    assert len(prefix) == 14 + 2 + 1 + 1 and QWEN_IMAGE in conversation.prefix
