"""Tiny builders, and the pretrained builders on folders that the same classes saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import StepContext
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.adapters import LoRA, count_parameters, freeze
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import pretrained_internvl, pretrained_sam2, tiny_internvl, tiny_sam2


def _tiny_vlm():  # noqa: ANN202
    return tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)


def test_tiny_models_are_a_function_of_their_seed() -> None:
    before = torch.random.get_rng_state()
    a, b = _tiny_vlm(), _tiny_vlm()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    other = tiny_internvl(
        image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1, seed=1
    )
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))


def test_tiny_sam2_shares_its_positional_encodings() -> None:
    model = tiny_sam2(image_size=32, hidden_size=64, width=8).model
    a = model.shared_image_embedding.positional_embedding
    b = model.prompt_encoder.shared_embedding.positional_embedding
    assert torch.equal(a, b)


def test_the_published_geometry_gives_16_by_16_tokens(tiny_batch: Batch) -> None:
    vlm = tiny_internvl(
        image_size=448, patch_size=14, downsample_ratio=0.5, hidden_size=16, vit_layers=1, lm_layers=1, heads=1
    )
    tokens = vlm.encode_image(tiny_batch.image1[:1])
    assert tokens.features.shape == (1, 256, 16) and tokens.grid == (16, 16)


def test_bad_geometry_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        tiny_sam2(image_size=100)
    with pytest.raises(ConfigError, match="multiple of 8"):
        tiny_internvl(image_size=36, patch_size=4, downsample_ratio=0.5)


def test_tokenizer_keeps_scene_words_whole_and_loses_nothing() -> None:
    tokenizer = _tiny_vlm().tokenizer
    assert tokenizer.tokenize("large red circle at the top left")[:3] == ["Ġlarge", "Ġred", "Ġcircle"]
    for text in ("Player No. 17 – naïve, 日本", "small cross", "redcircle"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids).strip() == text


def test_pretrained_folder_gives_the_saved_models_outputs(tmp_path: Path, tiny_batch: Batch) -> None:
    vlm, segmenter = _tiny_vlm(), tiny_sam2(image_size=32, hidden_size=64, width=8)
    vlm.model.save_pretrained(tmp_path / "vlm")
    vlm.tokenizer.save_pretrained(tmp_path / "vlm")
    segmenter.model.save_pretrained(tmp_path / "sam")
    loaded = pretrained_internvl(str(tmp_path / "vlm"), dtype="float32", image_size=32, local_files_only=True)
    features = loaded.encode_image(tiny_batch.image1).features
    torch.testing.assert_close(features, vlm.encode_image(tiny_batch.image1).features)
    sam = pretrained_sam2(str(tmp_path / "sam"), local_files_only=True)
    a = sam.eval().encode(tiny_batch.image1).embeddings
    torch.testing.assert_close(a, segmenter.eval().encode(tiny_batch.image1).embeddings)
    model = MaskCaptionModel(loaded, sam, max_new_tokens=2)
    assert len(model.describe(tiny_batch.image1, tiny_batch.mask1[:2])) == 2


def test_lora_trains_adapters_and_embeddings_only(tmp_path: Path, tiny_batch: Batch) -> None:
    vlm = _tiny_vlm()
    vlm.model.save_pretrained(tmp_path)
    vlm.tokenizer.save_pretrained(tmp_path)
    loaded = pretrained_internvl(
        str(tmp_path),
        dtype="float32",
        image_size=32,
        lora=LoRA(rank=2, alpha=4),
        freeze_patterns=["model.vision_tower.*"],
        local_files_only=True,
    )
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in trained)
    assert any("embed_tokens" in name for name in trained)
    assert all(
        "lora_" in name or "embed_tokens" in name or "projector" in name or "lm_head" in name for name in trained
    )
    every, some = count_parameters(loaded)
    assert 0 < some < every
    torch.testing.assert_close(
        loaded.encode_image(tiny_batch.image1).features, vlm.encode_image(tiny_batch.image1).features
    )


def test_a_missing_folder_and_an_idle_freeze_pattern_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.path=.*cannot be loaded"):
        pretrained_internvl(str(tmp_path / "nothing"), local_files_only=True)
    with pytest.raises(ConfigError, match="expected float32"):
        pretrained_sam2(str(tmp_path), dtype="int8")
    with pytest.raises(ConfigError, match="'vision.*' matches no parameter"):
        freeze(_tiny_vlm().model, ["vision.*"])


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_and_misfitting_weights_are_config_errors(tmp_path: Path) -> None:
    tiny_sam2(image_size=32, hidden_size=64, width=8).model.save_pretrained(tmp_path)
    name = "mask_decoder.iou_token.weight"
    _change_weights(tmp_path, lambda weights: weights.update({name: weights[name][:, :8].contiguous()}))
    with pytest.raises(ConfigError, match=rf"segmenter.path=.*has other sizes for 1 of Sam2Model's weights \({name}\)"):
        pretrained_sam2(str(tmp_path), local_files_only=True)
    _change_weights(tmp_path, lambda weights: weights.pop(name))
    with pytest.raises(ConfigError, match=rf"lacks 1 of Sam2Model's weights \({name}\)"):
        pretrained_sam2(str(tmp_path), local_files_only=True)
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + b"\x00" * 20)
    with pytest.raises(ConfigError, match="segmenter.path=.*cannot be loaded"):
        pretrained_sam2(str(tmp_path), local_files_only=True)


def test_frozen_bfloat16_and_trained_float32_work_under_autocast(tmp_path: Path, tiny_batch: Batch) -> None:
    vlm, segmenter = _tiny_vlm(), tiny_sam2(image_size=32, hidden_size=64, width=8)
    vlm.model.save_pretrained(tmp_path / "vlm")
    vlm.tokenizer.save_pretrained(tmp_path / "vlm")
    segmenter.model.save_pretrained(tmp_path / "sam")
    model = MaskCaptionModel(
        pretrained_internvl(
            str(tmp_path / "vlm"), image_size=32, lora=LoRA(rank=2), freeze_patterns=["model.vision_tower.*"]
        ),
        pretrained_sam2(str(tmp_path / "sam"), freeze_patterns=["vision_encoder.*"]),
        max_new_tokens=2,
    )
    dtypes = {p.requires_grad: p.dtype for p in model.vlm.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert all(module.training for module in model.modules())  # from_pretrained alone leaves evaluation mode
    context = StepContext(model.encode(tiny_batch.image1))
    with torch.autocast("cpu", torch.bfloat16):
        losses = [loop(model, tiny_batch, context).loss for loop in (MaskToCaption(), CaptionToMask())]
        captions = model.eval().describe(tiny_batch.image1, tiny_batch.mask1, tiny_batch.region_image)
    torch.stack(losses).sum().backward()
    assert len(captions) == 3
    assert all(p.grad is not None for name, p in model.vlm.named_parameters() if "lora_B" in name)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
