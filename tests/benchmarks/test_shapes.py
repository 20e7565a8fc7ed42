"""The large shapes, on the meta device: parameters as published, and a forward that fits together."""

from __future__ import annotations

import pytest
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from benchmarks.shapes import VOCABULARY, build_model, sam2_large_config, wordy_conversation
from maskcap.models.adapters import count_parameters
from maskcap.models.conversation import tokenise
from maskcap.models.tiny_tokenizer import tiny_tokenizer
from maskcap.training.flops import unit_flops


@pytest.mark.parametrize("name, published", [("1b", 938.2e6), ("2b", 4.18e9 / 2)])  # model.safetensors, bfloat16
def test_internvl3_has_the_published_number_of_parameters(name: str, published: float) -> None:
    model = build_model(name, "meta")
    assert count_parameters(model.vlm) == (pytest.approx(published, rel=0.005),) * 2
    assert model.vlm.head_weight.shape[0] == VOCABULARY
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_sam2_large_has_the_published_number_of_parameters() -> None:
    """224.4 M (the repository's table) are counted with the memory for videos, 212 M are the encoder's (timm's)."""
    images = sam2_large_config()
    videos = Sam2VideoConfig(
        vision_config=images.vision_config,
        enable_temporal_pos_encoding_for_object_pointers=True,
        enable_occlusion_spatial_embedding=True,
    )
    with torch.device("meta"):
        assert count_parameters(Sam2VideoModel(videos))[0] == pytest.approx(224.4e6, rel=0.001)
    segmenter = build_model("1b", "meta").segmenter
    assert count_parameters(segmenter.model.vision_encoder)[0] == pytest.approx(212e6, rel=0.01)
    assert (segmenter.image_size, segmenter.mask_size) == (1024, 256)


def test_adapters_train_what_the_shipped_configuration_trains() -> None:
    model = build_model("1b", "meta", "adapters")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("vision_tower" in name or "vision_encoder" in name for name in trained)
    of_layers = {name for name in trained if "language_model.layers" in name}
    assert of_layers and all("lora_" in name for name in of_layers)
    for part in ("projector", "embed_tokens", "lm_head", "mask_decoder"):
        assert any(part in name for name in trained), part
    for name, parameter in model.named_parameters():
        frozen_vlm = name.startswith("vlm.") and not parameter.requires_grad
        assert parameter.dtype == (torch.bfloat16 if frozen_vlm else torch.float32), name


def test_the_shapes_go_together() -> None:
    """One forward of both encoders and the mask decoder; PaLM's 2N FLOPs a token for N weights of linear layers."""
    model = build_model("1b", "meta")
    units = unit_flops(model)
    linear = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    assert units.token.forward == 2 * linear and units.token.backward == 4 * linear
    assert units.answer.forward == 2 * 896 * VOCABULARY
    # 1025 tokens through 24 layers of 12·1024² weights, and attention; the rest is the patches and the projector
    vision = 2 * 1025 * 24 * 12 * 1024**2 + 4 * 24 * 1024 * 1025**2
    assert units.vlm_image.forward == pytest.approx(vision, rel=0.01)


def test_the_conversation_has_as_many_tokens_as_internvls() -> None:
    tokenizer, words = tiny_tokenizer(), wordy_conversation()
    phrase = "red circle"
    texts = [words.prefix, words.describe_prompt(None), words.segment_prompt(phrase), words.segment_answer]
    assert [len(ids) for ids in tokenise(tokenizer, texts)] == [6 + 1, 29 + 1, 11 + 2, 5]
