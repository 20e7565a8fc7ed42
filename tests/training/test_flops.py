"""Counts against `FlopCounterMode` over real forwards and backwards, and against sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model

from maskcap.data.batch import Batch
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.adapters import LoRA, add_lora
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl
from maskcap.models.work import Work
from maskcap.training.flops import Flops, UnitFlops, language_flops, product_flops, step_flops, unit_flops
from maskcap.training.module import MaskCaptionModule
from maskcap.vision_tokens.settings import Patches


def _measured(forward: Callable[[], torch.Tensor]) -> Flops:
    """Of a real forward and, where there is one, its backward; attention as plain products, which alone are exact."""
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as there:
            output = forward()
        with FlopCounterMode(display=False) as back:
            if output.requires_grad:
                output.sum().backward()
    return Flops(there.get_total_flops(), back.get_total_flops())


def _train_only(model: nn.Module, *parts: nn.Module | nn.Parameter) -> None:
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def _linear(*layers: Any) -> int:
    return sum(2 * layer.weight.numel() for layer in layers)


def test_encoders_are_counted_as_they_run(tiny_model: MaskCaptionModel):
    units = unit_flops(tiny_model)
    image = torch.randn(1, 3, 32, 32)
    assert units.vlm_image == _measured(lambda: tiny_model.encode_image(image).features)

    def encode() -> torch.Tensor:
        features = tiny_model.segmenter.encode(image)
        return sum((part.sum() for part in features.high), features.embeddings.sum())

    real = _measured(encode)
    assert units.sam_image.forward == real.forward
    # The last level of the feature pyramid runs and is thrown away: its backward is counted and does not run.
    assert real.backward <= units.sam_image.backward < 1.05 * real.backward


def test_qwens_views_are_counted_by_their_tokens(tiny_model: MaskCaptionModel):
    vlm = tiny_qwen2_vl(image_size=32, hidden_size=32, vit_size=32, vit_layers=2, lm_layers=1)
    model = MaskCaptionModel(vlm, tiny_model.segmenter, grounding=True)
    image, units = torch.randn(1, 3, 32, 32), unit_flops(model)
    assert units.vlm_image == _measured(lambda: model.encode_image(image).features)
    model.set_vision_tokens(Patches(alpha=0.5))
    real = _measured(lambda: model.encode_image(image).features)
    encoded = model.encode(image)
    assert encoded.tokens.counts == [7] and encoded.work.vlm_images == 7 / 16
    counted = step_flops(units, encoded.work).vision
    # attention is counted 16 / 7 times too high, and is a small part of it
    assert real.total <= counted.total < 1.15 * real.total


def test_one_mask_is_counted_as_it_runs(tiny_model: MaskCaptionModel):
    with torch.no_grad():
        features = tiny_model.segmenter.encode(torch.randn(1, 3, 32, 32))

    def decode() -> torch.Tensor:
        sparse = tiny_model.seg_mlp(torch.randn(1, 32, requires_grad=True))[:, None]
        dense = torch.randn(1, 4, 4, requires_grad=True)
        return tiny_model.segmenter.decode(features, torch.zeros(1, dtype=torch.int64), sparse, dense)

    units, real = unit_flops(tiny_model), _measured(decode)
    assert units.mask.forward == real.forward
    assert real.backward <= units.mask.backward < 1.05 * real.backward  # SDPA's masks and scores that nothing reads


def _language_model(**options: Any) -> Qwen2Model:
    sizes = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "vocab_size": 50}
    return Qwen2Model(Qwen2Config(**sizes, **{"num_attention_heads": 4, "num_key_value_heads": 4, **options}))


def _read(model: Qwen2Model, inputs_train: bool, length: int = 24) -> torch.Tensor:
    embeds = torch.randn(1, length, 32, requires_grad=inputs_train)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool)  # every pair is allowed: what SDPA computes
    return model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state


@pytest.mark.parametrize("key_heads", [4, 2])
def test_language_model_forward_and_backward(key_heads: int):
    model = _language_model(num_key_value_heads=key_heads)
    token, pair = language_flops(model, inputs_train=True)
    assert token * 24 + pair * 24**2 == _measured(lambda: _read(model, inputs_train=True))
    attention, mlp = model.layers[0].self_attn, model.layers[0].mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    assert token.forward == 3 * _linear(*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    assert token.backward == 2 * token.forward
    assert pair == Flops(3 * 4 * 32, 3 * 8 * 32)  # heads · head_dim is the width


def test_lora_counts_its_own_matrices_and_the_way_back():
    model = _language_model()
    add_lora(model, LoRA(rank=4, alpha=8, dropout=0.0))
    token, pair = language_flops(model, inputs_train=True)
    assert token * 24 + pair * 24**2 == _measured(lambda: _read(model, inputs_train=True))
    adapters = sum(2 * p.numel() for name, p in model.layers.named_parameters() if "lora_" in name)
    assert token.backward == token.forward + adapters  # nothing for the weights that are frozen


def test_frozen_language_model_passes_the_gradient_on_or_not():
    model = _language_model()
    model.requires_grad_(False)
    token, pair = language_flops(model, inputs_train=True)
    assert token * 24 + pair * 24**2 == _measured(lambda: _read(model, inputs_train=True))
    assert token.backward == token.forward
    token, pair = language_flops(model, inputs_train=False)
    assert token.backward == pair.backward == 0


def test_the_gradient_ends_at_the_first_layer_that_trains():
    model = _language_model()
    _train_only(model, model.layers[2].mlp, model.layers[1].mlp.down_proj)
    token, pair = language_flops(model, inputs_train=False)
    last, down = model.layers[2], _linear(model.layers[1].mlp.down_proj)
    mlp = _linear(last.mlp.gate_proj, last.mlp.up_proj, last.mlp.down_proj)
    through = _linear(last.self_attn.q_proj, last.self_attn.k_proj, last.self_attn.v_proj, last.self_attn.o_proj)
    assert token.backward == down + through + 2 * mlp
    assert token.backward * 24 == _measured(lambda: _read(model, False)).backward - 24**2 * 2 * 4 * 32
    # layer 1 counts as a whole, so its attention is in here and not in the measured backward
    assert pair.backward == 2 * 2 * 4 * 32


def test_head_is_one_product_an_answer(tiny_model: MaskCaptionModel):
    weight = tiny_model.vlm.head_weight
    states = torch.randn(5, 32, requires_grad=True)
    assert product_flops(weight, True) * 5 == _measured(lambda: states @ weight.T)
    assert unit_flops(tiny_model).answer == Flops(2 * weight.numel(), 4 * weight.numel())


def test_frozen_vision_and_trained_projector(tiny_model: MaskCaptionModel):
    everything = unit_flops(tiny_model)
    vlm: Any = tiny_model.vlm
    projector = vlm.model.model.multi_modal_projector
    _train_only(tiny_model, projector)
    units = unit_flops(tiny_model)
    products = _linear(projector.linear_1, projector.linear_2)  # of each of 16 tokens; a norm before them trains too
    assert units.vlm_image == Flops(everything.vlm_image.forward, 16 * 2 * products)
    projector.layer_norm.requires_grad_(False)
    first_less = 16 * _linear(projector.linear_1)
    assert unit_flops(tiny_model).vlm_image.backward == units.vlm_image.backward - first_less
    # frozen, but the gradient goes through to the projector
    assert units.token == Flops(everything.token.forward, everything.token.forward)
    assert units.pair == everything.pair
    assert units.answer.backward == units.answer.forward
    assert 0 < units.mask.backward < everything.mask.backward  # the way back to the [SEG] state alone
    assert units.sam_image.backward == 0


def test_nothing_flows_back_into_what_stands_before_the_trained_parts(tiny_model: MaskCaptionModel):
    _train_only(tiny_model, tiny_model.seg_mlp)
    units = unit_flops(tiny_model)
    assert [part.backward for part in (units.vlm_image, units.token, units.pair, units.answer)] == [0, 0, 0, 0]
    assert units.mask.backward > 0 and units.sam_image.backward == 0
    _train_only(tiny_model, tiny_model.region_marker)  # it stands in the inputs
    units = unit_flops(tiny_model)
    assert units.vlm_image.backward == 0 and units.token.backward == units.token.forward


def test_a_step_is_the_sum_of_its_parts():
    one, two = Flops(1, 2), Flops(10, 0)
    units = UnitFlops(vlm_image=one, sam_image=two, token=one, pair=two, answer=one, mask=two)
    work = Work(vlm_images=2, sam_images=3, tokens=5, slots=100, pairs=7, answers=11, masks=13)
    step = step_flops(units, work)
    assert step.vision == Flops(2, 4) and step.segmenter_encoder == Flops(30, 0) and step.mask_decoder == Flops(130, 0)
    assert step.language_linear == Flops(5, 10) and step.language_attention == Flops(70, 0)
    assert step.head == Flops(11, 22)
    assert step.total == 3 * (2 + 5 + 11) + 10 * (3 + 7 + 13)
    assert step_flops(units, Work()).total == 0


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_a_real_training_step(tiny_model: MaskCaptionModel, worded_batch: Batch, packing: Any):
    """All of it against the counter, with padding and forbidden pairs counted as the machine computes them."""
    tiny_model.packing = packing
    module = MaskCaptionModule(tiny_model, {"m": MaskToCaption(), "c": CaptionToMask()}, meteor=False)
    module.log = lambda *args, **kwargs: None
    rows: list[tuple[int, int]] = []
    language_model: Any = tiny_model.vlm.language_model
    language_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    real = _measured(lambda: module.training_step(worded_batch, 0))
    work = module.last_work
    assert work is not None and rows
    assert work.slots == sum(n * length for n, length in rows)
    assert work.tokens < work.slots and work.pairs < sum(n * length**2 for n, length in rows)
    dense = Work(**{**vars(work), "tokens": work.slots, "pairs": sum(n * length**2 for n, length in rows)})
    assert step_flops(unit_flops(tiny_model), dense).total == pytest.approx(real.total, rel=0.05)


def test_counting_changes_nothing(tiny_model: MaskCaptionModel):
    image = torch.randn(1, 3, 32, 32)
    tiny_model.train()
    tiny_model.vlm.eval()
    modes = [module.training for module in tiny_model.modules()]
    parameters = {name: (id(p), p.device, p.requires_grad, p.grad) for name, p in tiny_model.named_parameters()}
    buffers = {name: id(buffer) for name, buffer in tiny_model.named_buffers()}
    with torch.no_grad():
        before = tiny_model.segmenter.encode(image).embeddings
    random = torch.get_rng_state()
    first = unit_flops(tiny_model)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in tiny_model.modules()] == modes
    after = {name: (id(p), p.device, p.requires_grad, p.grad) for name, p in tiny_model.named_parameters()}
    assert after == parameters
    assert {name: id(buffer) for name, buffer in tiny_model.named_buffers()} == buffers
    with torch.no_grad():  # the same batch size and device: a stand-in left in a cache would be met here
        assert torch.equal(tiny_model.segmenter.encode(image).embeddings, before)
    assert unit_flops(tiny_model) == first


def test_compiled_and_checkpointed_parts_count_the_same(tiny_model: MaskCaptionModel):
    plain = unit_flops(tiny_model)
    vlm: Any = tiny_model.vlm

    def refuse(graph: Any, inputs: Any) -> Any:
        raise AssertionError("compiled")

    vlm.model.model.vision_tower.compile(backend=refuse)
    tiny_model.segmenter.model.vision_encoder.compile(backend=refuse)
    assert unit_flops(tiny_model) == plain
    vlm.model.activation_checkpointing_enable()
    tiny_model.train()
    assert unit_flops(tiny_model) == plain


def test_mixed_dtypes_count_the_same(tiny_model: MaskCaptionModel):
    plain = unit_flops(tiny_model)
    vlm: Any = tiny_model.vlm
    vlm.model.model.vision_tower.to(torch.bfloat16)  # frozen weights beside float32 ones; the forward needs autocast
    assert unit_flops(tiny_model) == plain
