"""InternVL3.5's language model is Qwen3, InternVL3's Qwen2: the class around it is the same."""

from __future__ import annotations

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen3Config

from maskcap.models.adapters import LoRA, add_lora
from maskcap.models.conversation import IMAGE_SLOT
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_sam2
from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
from maskcap.models.vlm.internvl import InternVL


def test_qwen3_with_adapters_describes_and_segments_alike_with_both_packings() -> None:
    tokenizer = tiny_tokenizer()
    vision = InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=4
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token_id(tokenizer, IMAGE_SLOT),
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hugging_face = InternVLForConditionalGeneration(config)
        add_lora(hugging_face.model.language_model, LoRA(rank=4, alpha=8))
        segmenter = tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64)
        model = MaskCaptionModel(InternVL(hugging_face, tokenizer, 32), segmenter, max_new_tokens=4).eval()
        images = torch.randn(2, 3, 64, 64)
    masks = torch.zeros(3, 64, 64)
    masks[0, :30, :30] = masks[1, 30:, 30:] = masks[2, 10:50, 10:50] = 1
    of = torch.tensor([0, 0, 1])
    tree = model.describe(images, masks, of), model.segment(images, ["a", "b", "c"], of)
    model.packing = "none"
    none = model.describe(images, masks, of), model.segment(images, ["a", "b", "c"], of)
    assert tree[0] == none[0]
    assert torch.allclose(tree[1], none[1], atol=1e-6)
    assert any("lora" in name for name, _ in model.named_parameters())
