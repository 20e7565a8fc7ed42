"""The Qwen2-VLs that patches are timed with: the demo's, and Qwen2-VL-2B at random weights, whole or in part.

Widths and rotary embeddings are those of Qwen/Qwen2-VL-2B-Instruct; whole, its parameters come to the published 2.21 B.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.shapes import wordy_conversation
from maskcap.models.conversation import QWEN_IMAGE, QWEN_SLOT, Conversation
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl, tiny_sam2
from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
from maskcap.models.vlm.qwen2_vl import Qwen2VL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig

TINY, SLICE, WHOLE = "tiny", "slice", "2b"
NAMES = (TINY, SLICE, WHOLE)
SIDE = 896  # px of a square image as the model sees it: 32 × 32 merge blocks
VISION_BLOCKS, LANGUAGE_BLOCKS, VOCABULARY = 32, 28, 151_936


def build_qwen2_vl(name: str, device: str | torch.device, blocks: int = 2) -> MaskCaptionModel:
    """`tiny`: the demo's, 128 px and 16 × 16 tokens. `2b`: all of Qwen2-VL-2B. `slice`: `blocks` of its vision tower's
    32 and as many of its language model's 28, and no vocabulary to speak of. A square image has 32 × 32 tokens in these
    two, and on CUDA they are in bfloat16. The segmenter beside them is the demo's, unused. A caption is one token.
    """
    if name == TINY:
        return MaskCaptionModel(tiny_qwen2_vl(), tiny_sam2(), max_new_tokens=1).to(device).eval()
    from transformers import Qwen2VLForConditionalGeneration

    tokenizer = tiny_tokenizer(("<|vision_start|>", "<|vision_end|>", QWEN_SLOT, "<|video_pad|>"))
    depths = (VISION_BLOCKS, LANGUAGE_BLOCKS, VOCABULARY) if name == WHOLE else (blocks, blocks, len(tokenizer))
    with torch.random.fork_rng(), torch.device(device):  # on the device at once, and no copy
        torch.manual_seed(0)
        language = Qwen2VLForConditionalGeneration(qwen2_vl_config(tokenizer, *depths))
        vlm = Qwen2VL(language, tokenizer, max_pixels=SIDE**2, conversation=wordy_qwen_conversation())
        model = MaskCaptionModel(vlm, tiny_sam2(), max_new_tokens=1)
    if torch.device(device).type == "cuda":
        in_bfloat16(model)
    return model.eval()


def in_bfloat16(model: MaskCaptionModel) -> MaskCaptionModel:
    """Its weights; buffers stay as they are, as where a checkpoint is loaded in bfloat16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def qwen2_vl_config(
    tokenizer: PreTrainedTokenizerFast, vision_blocks: int, language_blocks: int, vocabulary: int
) -> Qwen2VLConfig:
    """Qwen2-VL-2B's widths. The ids are the tiny tokenizer's: the rest of the vocabulary is never used."""
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

    vision = Qwen2VLVisionConfig(depth=vision_blocks, embed_dim=1280, hidden_size=1536, num_heads=16, patch_size=14)
    text = Qwen2VLTextConfig(
        vocab_size=vocabulary,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=language_blocks,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, "<|im_end|>"),
        pad_token_id=token_id(tokenizer, "<pad>"),
    )
    return Qwen2VLConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=token_id(tokenizer, QWEN_SLOT),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )


def wordy_qwen_conversation() -> Conversation:
    """Other words, but as many tokens in the tiny tokenizer as Qwen2-VL's chat has in Qwen's: 17 beside the image, and
    around a region's tokens 29."""
    chat = "<|im_start|> answer question of a small person at left<|im_end|> in<|im_start|> large top"
    images = {"prefix": f"{chat}{QWEN_IMAGE} this", "frame": f"{QWEN_IMAGE} this", "no_image": chat}
    return replace(wordy_conversation(), **images, image_slot=QWEN_SLOT)
