"""The models that a step is timed with: the demo's, and InternVL3-1B and -2B with SAM2.1-large at random weights.

The shapes are those of OpenGVLab/InternVL3-1B-hf, -2B-hf and facebook/sam2.1-hiera-large. Their parameters come to the
published 938 M and 2.09 B, and to 217 M for SAM2, which with its memory for videos has the published 224.4 M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from maskcap.models.adapters import LoRA, add_lora, freeze, train_in_float32
from maskcap.models.conversation import (
    ADDED_TOKENS,
    IMAGE_SLOT,
    REGION_CLOSE,
    REGION_OPEN,
    REGION_SLOT,
    SEG,
    Conversation,
)
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2
from maskcap.models.segmenter import Segmenter
from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
from maskcap.models.vlm.internvl import InternVL

if TYPE_CHECKING:
    from transformers import InternVLConfig, Sam2Config

Trained = Literal["all", "adapters"]
VOCABULARY = 151_674
FROZEN_VISION, FROZEN_SAM2 = ["model.vision_tower.*"], ["vision_encoder.*", "prompt_encoder.*", "no_memory_embedding"]


@dataclass(frozen=True)
class LanguageShape:
    """Of a Qwen2.5 language model: width, layers, heads (2 for keys and values), width of the MLP."""

    width: int
    layers: int
    heads: int
    mlp: int


LANGUAGE = {"1b": LanguageShape(896, 24, 14, 4864), "2b": LanguageShape(1536, 28, 12, 8960)}
NAMES = ("tiny", *LANGUAGE)


def build_model(name: str, device: str | torch.device, trained: Trained = "all", **options: Any) -> MaskCaptionModel:
    """`tiny`: the demo's models, all trained. `1b`, `2b`: see above.

    trained: `adapters` trains what conf/model/internvl.yaml and conf/segmenter/sam2.yaml do (LoRA, projector, head,
    embeddings, mask decoder), with the VLM's frozen weights in bfloat16. What trains is float32.
    options: MaskCaptionModel's (attention, compile, activation_checkpointing …).
    """
    if name == "tiny":
        return MaskCaptionModel(tiny_internvl(), tiny_sam2(), grounding=True, **options).to(device)
    from transformers import InternVLForConditionalGeneration, Sam2Model

    with torch.random.fork_rng(), torch.device(device):  # on the device at once: 2 B random numbers, and no copy
        torch.manual_seed(0)
        language = InternVLForConditionalGeneration(internvl3_config(LANGUAGE[name]))
        vlm = InternVL(language, tiny_tokenizer(), 448, wordy_conversation())
        segmenter = Segmenter(Sam2Model(sam2_large_config()))
        if trained == "adapters":
            _train_adapters(vlm, segmenter)
        return MaskCaptionModel(vlm, segmenter, **options)


def internvl3_config(shape: LanguageShape) -> InternVLConfig:
    """InternViT-300M at 448 px and Qwen2.5 with a head that is a matrix of its own, as in the published files.

    The ids are the tiny tokenizer's, which are few: the rest of the vocabulary is never used, and costs the same.
    """
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    tokenizer = tiny_tokenizer()
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=2,
        intermediate_size=shape.mlp,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, "<|im_end|>"),
        pad_token_id=token_id(tokenizer, "<pad>"),
        tie_word_embeddings=False,
    )
    vision = InternVLVisionConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        attention_bias=True,
        image_size=448,
        patch_size=14,
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token_id(tokenizer, IMAGE_SLOT),
        image_seq_length=256,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def sam2_large_config() -> Sam2Config:
    """SAM2.1 with Hiera-L at 1024 px; the prompt encoder and the mask decoder are the library's defaults."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2VisionConfig

    widths = [144, 288, 576, 1152]
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0],
        image_size=[1024, 1024],
        blocks_per_stage=[2, 6, 36, 4],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 16, 8],
        window_positional_embedding_background_size=[7, 7],
        global_attention_blocks=[23, 33, 43],
    )
    return Sam2Config(vision_config=Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1]))


def wordy_conversation() -> Conversation:
    """Other words, but as many tokens in the tiny tokenizer as `Conversation()` has in Qwen's: 6 beside the image, 29
    around a region's tokens, 11 around a phrase, 5 for the answer with [SEG]."""
    reply = "<|im_end|> answer<|im_start|> person object"
    return Conversation(
        prefix=f"<|im_start|> answer question<img>{IMAGE_SLOT}</img> this",
        frame=f"<img>{IMAGE_SLOT}</img> this",
        no_image="<|im_start|> answer question",
        describe=" this is a single region of the object at the top left"
        f"{REGION_OPEN}{REGION_SLOT}{REGION_CLOSE}{{question}}{reply}",
        default_question=" describe this region using a single word or phrase at",
        segment=f" answer segment {{phrase}} in this object of{reply}",
        segment_answer=f" what is this{SEG} of",
        added_tokens=ADDED_TOKENS,
    )


def _train_adapters(vlm: InternVL, segmenter: Segmenter) -> None:
    for parameter in vlm.parameters():
        parameter.data = parameter.data.bfloat16()
    freeze(vlm.model, FROZEN_VISION)
    add_lora(vlm.language_model, LoRA())
    train_in_float32(vlm)
    freeze(segmenter.model, FROZEN_SAM2)
