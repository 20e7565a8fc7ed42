"""Builders: small random models that train anywhere, and pretrained ones from a folder or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskcap.errors import ConfigError
from maskcap.models.adapters import LoRA, add_lora, freeze, train_in_float32
from maskcap.models.conversation import IMAGE_SLOT, QWEN_IMAGE, QWEN_SLOT, tiny_conversation

if TYPE_CHECKING:
    from maskcap.losses import TargetResize
    from maskcap.models.segmenter import Segmenter
    from maskcap.models.vlm.internvl import InternVL
    from maskcap.models.vlm.qwen2_vl import Qwen2VL


def tiny_internvl(
    image_size: int = 128,
    patch_size: int = 8,
    downsample_ratio: float = 1.0,
    hidden_size: int = 96,
    vit_layers: int = 4,
    lm_layers: int = 2,
    heads: int = 4,
    std: float = 0.04,
    seed: int = 0,
) -> InternVL:
    """`InternVLForConditionalGeneration` with random weights, about a million parameters.

    image_size / patch_size · downsample_ratio tokens a side: 128, 8 and 1 (no pixel shuffle) give 16×16 tokens. Layer
    scale starts at 1 (a pretrained ViT's .1 hardly trains from scratch); positions are learned from 2-D sines and
    cosines, because from the library's zeros a short run never learns where a region is.
    """
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
    from maskcap.models.vlm.internvl import InternVL

    tokenizer = tiny_tokenizer()
    vision = InternVLVisionConfig(
        hidden_size=hidden_size,
        num_hidden_layers=vit_layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        image_size=image_size,
        patch_size=patch_size,
        layer_scale_init_value=1.0,
        initializer_range=std,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=lm_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, "<|im_end|>"),
        pad_token_id=token_id(tokenizer, "<pad>"),
        tie_word_embeddings=True,
        initializer_range=std,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token_id(tokenizer, IMAGE_SLOT),
        image_seq_length=int(image_size // patch_size * downsample_ratio) ** 2,
        downsample_ratio=downsample_ratio,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
        _start_positions(model.model.vision_tower.embeddings.position_embeddings, image_size // patch_size)
    return InternVL(model, tokenizer, image_size, tiny_conversation())


def tiny_qwen2_vl(
    image_size: int = 128,
    patch_size: int = 4,
    hidden_size: int = 96,
    vit_size: int = 64,
    vit_layers: int = 3,
    lm_layers: int = 2,
    heads: int = 4,
    std: float = 0.04,
    seed: int = 0,
) -> Qwen2VL:
    """`Qwen2VLForConditionalGeneration` with random weights, about half a million parameters.

    A square image of image_size px has image_size / (2 · patch_size) tokens a side: 128 and 4 give 16×16. Rotary bases
    are small (the stock ones are made for thousands of positions): with 1e6 and a few frequencies M-RoPE's last
    section, the columns, would hardly turn over 16 of them. Raises ConfigError for sizes that do not divide.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    from maskcap.models.tiny_tokenizer import tiny_tokenizer, token_id
    from maskcap.models.vlm.qwen2_vl import Qwen2VL

    _check_tiny_qwen(image_size, patch_size, hidden_size, vit_size, heads)
    tokenizer = tiny_tokenizer(("<|vision_start|>", "<|vision_end|>", QWEN_SLOT, "<|video_pad|>"))
    vision = Qwen2VLVisionConfig(
        depth=vit_layers,
        embed_dim=vit_size,
        hidden_size=hidden_size,
        num_heads=heads,
        patch_size=patch_size,
        initializer_range=std,
        rope_parameters={"rope_type": "axial", "rope_theta": 100.0},
    )
    config = Qwen2VLConfig(
        vision_config=vision.to_dict(),
        text_config=_tiny_qwen_text(tokenizer, hidden_size, lm_layers, heads, std).to_dict(),
        image_token_id=token_id(tokenizer, QWEN_SLOT),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    conversation = tiny_conversation(QWEN_IMAGE, QWEN_SLOT)
    return Qwen2VL(model, tokenizer, (2 * patch_size) ** 2, image_size**2, conversation)


def tiny_sam2(
    image_size: int = 128,
    hidden_size: int = 256,
    width: int = 32,
    mlp_dim: int = 512,
    std: float = 0.06,
    target_resize: TargetResize = "area",
    decode_chunk: int | None = None,
    seed: int = 0,
) -> Segmenter:
    """`Sam2Model` with random weights: low-res masks of image_size / 4, embeddings of image_size / 16.

    std .06 instead of the library's .02 and a width of 256 are what lets the decoder train from scratch; the
    image-wide and the prompt positional encodings are shared, as in pretrained weights.
    """
    import torch
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    from maskcap.models.segmenter import Segmenter

    if image_size % 32:
        raise ConfigError(f"segmenter.image_size={image_size}: take a multiple of 32")
    sides = [image_size // 4, image_size // 8, image_size // 16]
    widths = [width, 2 * width, 4 * width, 8 * width]
    backbone = Sam2HieraDetConfig(
        hidden_size=width,
        image_size=[image_size, image_size],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        window_positional_embedding_background_size=[7, 7],
        global_attention_blocks=[3],
        initializer_range=std,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[side, side] for side in sides],
        fpn_hidden_size=hidden_size,
        initializer_range=std,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=hidden_size, image_size=image_size, patch_size=16)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=hidden_size, mlp_dim=mlp_dim, iou_head_hidden_dim=64, num_attention_heads=8
    )
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder, initializer_range=std
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam2Model(config)
    shared = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return Segmenter(model, target_resize, decode_chunk)


def pretrained_internvl(
    path: str,
    dtype: str = "bfloat16",
    image_size: int = 448,
    lora: LoRA | None = None,
    freeze_patterns: Sequence[str] = (),
    antialias: bool = False,
    local_files_only: bool = False,
) -> InternVL:
    """InternVL from a folder or a hub id (the `-hf` format, e.g. `OpenGVLab/InternVL3-1B-hf`), frozen and adapted.

    dtype: of the frozen weights; what trains is kept in float32. freeze_patterns: shell-style patterns of the Hugging
    Face model's parameter names. lora: adapters on the language model, which is frozen but for its embeddings.
    Raises ConfigError when the folder or hub id cannot be loaded, saying why.
    """
    from transformers import AutoTokenizer, InternVLForConditionalGeneration

    from maskcap.models.vlm.internvl import InternVL

    model = _load(InternVLForConditionalGeneration, "model.path", path, dtype, local_files_only)
    tokenizer = _load(AutoTokenizer, "model.path", path, None, local_files_only)
    vlm = InternVL(model, tokenizer, image_size, antialias=antialias)
    _adapt(model, lora, freeze_patterns)
    return vlm


def pretrained_qwen2_vl(
    path: str,
    dtype: str = "bfloat16",
    min_pixels: int = 56 * 56,
    max_pixels: int = 28 * 28 * 1280,
    lora: LoRA | None = None,
    freeze_patterns: Sequence[str] = (),
    antialias: bool = True,
    local_files_only: bool = False,
) -> Qwen2VL:
    """Qwen2-VL or Qwen2.5-VL from a folder or a hub id (e.g. `Qwen/Qwen2-VL-2B-Instruct`), frozen and adapted.

    min_pixels, max_pixels: of an image as the model sees it, 28 × 28 px a token. The rest as `pretrained_internvl`,
    ConfigError too.
    """
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
    )

    from maskcap.models.vlm.qwen2_vl import Qwen2VL

    classes = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}
    kind = _load(AutoConfig, "model.path", path, None, local_files_only).model_type
    if kind not in classes:
        raise ConfigError(f"model.path={path} is of model_type {kind}: expected one of {', '.join(classes)}")
    model = _load(classes[kind], "model.path", path, dtype, local_files_only)
    tokenizer = _load(AutoTokenizer, "model.path", path, None, local_files_only)
    vlm = Qwen2VL(model, tokenizer, min_pixels, max_pixels, antialias=antialias)
    _adapt(model, lora, freeze_patterns)
    return vlm


def pretrained_sam2(
    path: str,
    dtype: str = "float32",
    freeze_patterns: Sequence[str] = (),
    target_resize: TargetResize = "nearest",
    decode_chunk: int | None = None,
    local_files_only: bool = False,
) -> Segmenter:
    """SAM2 from a folder or a hub id (e.g. `facebook/sam2.1-hiera-large`); decode_chunk: see `Segmenter`. Raises
    ConfigError as above."""
    from transformers import Sam2Model

    from maskcap.models.segmenter import Segmenter

    model = _load(Sam2Model, "segmenter.path", path, dtype, local_files_only)
    freeze(model, freeze_patterns)
    train_in_float32(model)
    return Segmenter(model, target_resize, decode_chunk)


def _check_tiny_qwen(image_size: int, patch_size: int, hidden_size: int, vit_size: int, heads: int) -> None:
    if min(image_size, patch_size, hidden_size, vit_size, heads) < 1:
        raise ConfigError("model: image_size, patch_size, hidden_size, vit_size and heads are at least 1")
    if image_size % (2 * patch_size):
        raise ConfigError(f"model.image_size={image_size}: take a multiple of 2 · patch_size = {2 * patch_size}")
    if hidden_size % (2 * heads) or vit_size % (4 * heads) or hidden_size < 6 * heads:
        raise ConfigError(
            f"model.hidden_size={hidden_size} vit_size={vit_size} heads={heads}: take a hidden_size that is a multiple "
            "of 2 · heads and at least 6 times them (M-RoPE has three sections), a vit_size that is one of 4 · heads"
        )


def _tiny_qwen_text(tokenizer: Any, hidden_size: int, layers: int, heads: int, std: float) -> Any:
    """Its language model's configuration; M-RoPE's frequencies are shared out among time, rows and columns."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

    from maskcap.models.tiny_tokenizer import token_id

    frequencies = hidden_size // heads // 2
    return Qwen2VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        initializer_range=std,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10.0,
            "mrope_section": [frequencies - 2 * (frequencies // 3), frequencies // 3, frequencies // 3],
        },
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, "<|im_end|>"),
        pad_token_id=token_id(tokenizer, "<pad>"),
    )


def _start_positions(embeddings: Any, side: int, scale: float = 4.0) -> None:
    """Fill (1, 1 + side², C) in place: a quarter of C each sin and cos of the row, sin and cos of the column (MAE)."""
    import torch

    quarter = embeddings.shape[-1] // 4
    frequency = torch.pi * 2.0 ** torch.linspace(-1, 3, quarter)
    angle = (torch.arange(side) + 0.5)[:, None] / side * frequency
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)], dim=-1)
    with torch.no_grad():
        embeddings[0, 1:, : 4 * quarter] = scale * grid.flatten(0, 1)


def _adapt(model: Any, lora: LoRA | None, freeze_patterns: Sequence[str]) -> None:
    """Freeze, put adapters on the language model, and keep what trains in float32."""
    freeze(model, freeze_patterns)
    if lora is not None:
        add_lora(model.model.language_model, lora)
    train_in_float32(model)


def _load(cls: Any, key: str, path: str, dtype: str | None, local_files_only: bool) -> Any:
    import torch
    from safetensors import SafetensorError

    if dtype is not None and dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"{key[:-5]}.dtype={dtype!r}: expected float32, bfloat16 or float16")
    options: dict[str, Any] = {"local_files_only": local_files_only}
    try:
        if dtype is None:
            return cls.from_pretrained(path, **options)
        # sizes that differ are reported with the missing ones below; unreported, either would start at random
        options |= {"dtype": getattr(torch, dtype), "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = cls.from_pretrained(path, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"{key}={path}: {cls.__name__} cannot be loaded ({str(error).splitlines()[0]}). Give a folder that "
            "save_pretrained wrote, or a hub id that this machine can reach."
        ) from error
    _check_complete(model, report, f"{key}={path}")
    return model.train()  # from_pretrained leaves it in evaluation mode, in which LoRA's dropout would never act


def _check_complete(model: Any, report: dict[str, Any], where: str) -> None:
    """Raise ConfigError for weights that the folder lacks or has in another size; tied ones come from their twins."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = sorted(set(report["missing_keys"]) - tied)
    mismatched = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for kind, names in (("lacks", missing), ("has other sizes for", mismatched)):
        if names:
            raise ConfigError(
                f"{where}: the folder {kind} {len(names)} of {type(model).__name__}'s weights "
                f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): is it of this kind of model, and complete?"
            )
