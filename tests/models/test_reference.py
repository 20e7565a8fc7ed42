"""The frozen captioner: what it shares and copies, that it stays, its checkpoint; adapters off and on again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maskcap.data.batch import Batch
from maskcap.errors import CheckpointError, ConfigError
from maskcap.models.adapters import LoRA, add_lora, freeze
from maskcap.models.conversation import Tokens
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.reference import FrozenCopy, evaluating, reference_states, without_adapters
from maskcap.models.segments import RegionTokens

VISION = {
    "tiny_model": ["vlm.model.model.vision_tower.*", "vlm.model.model.multi_modal_projector.*"],
    "qwen_model": ["vlm.model.model.visual.*"],
}
LANGUAGE = "vlm.model.model.language_model.layers.*"
CAPTIONS = ("large red circle", "", "small blue cross at the top left")


@pytest.fixture(params=["tiny_model", "qwen_model"])
def named_model(request: pytest.FixtureRequest) -> tuple[str, MaskCaptionModel]:
    """InternVL and Qwen2-VL, in evaluation mode."""
    return request.param, request.getfixturevalue(request.param).eval()


def answers(model: MaskCaptionModel) -> list[Tokens]:
    vlm: Any = model.vlm
    ids = vlm.tokenizer(list(CAPTIONS), add_special_tokens=False).input_ids
    return [Tokens((*row, vlm.tokenizer.convert_tokens_to_ids("<|im_end|>"))) for row in ids]


@torch.no_grad()
def own_states(model: MaskCaptionModel, batch: Batch) -> torch.Tensor:
    """The model's own states that predict the captions, in one reading."""
    encoded = model.encode(batch.image1, batch.sizes)
    regions, _ = model.region_tokens(encoded.tokens, batch.mask1, batch.region_image)
    (reading,) = model.read(
        encoded, [model.describe_questions(regions, batch.region_image.tolist(), [None] * 3, answers(model))]
    )
    return reading.answer_states


def known_states(
    frozen: FrozenCopy | None, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages | None = None
) -> torch.Tensor:
    """The frozen captioner's, of the same images."""
    encoded = encoded or model.encode(batch.image1, batch.sizes).frozen([0, 1])
    images = batch.region_image.tolist()
    _, states = reference_states(frozen, model, encoded, batch.mask1, images, answers(model))
    assert not states.requires_grad
    return states


@torch.no_grad()
def train_a_bit(model: nn.Module) -> None:
    """Move everything that trains, in place."""
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        if weight.requires_grad:
            weight += 0.3 * torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("blind", [False, True], ids=["all_trains", "vision_frozen"])
def test_a_copy_stays_as_the_model_was(
    blind: bool, named_model: tuple[str, MaskCaptionModel], tiny_batch: Batch
) -> None:
    name, model = named_model
    if blind:
        assert freeze(model, VISION[name]) > 0
    frozen, before = FrozenCopy(model), own_states(model, tiny_batch)
    assert frozen.sees_alike is blind
    torch.testing.assert_close(known_states(frozen, model, tiny_batch), before)
    train_a_bit(model)
    assert (own_states(model, tiny_batch) - before).abs().max() > 0.05
    torch.testing.assert_close(known_states(frozen, model, tiny_batch), before)


def test_a_copy_that_sees_alike_encodes_no_image(
    named_model: tuple[str, MaskCaptionModel], tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model = named_model
    freeze(model, VISION[name])
    alike = FrozenCopy(model)
    some = VISION[name][-1].removesuffix("*")
    next(p for n, p in model.named_parameters() if n.startswith(some)).requires_grad_(True)
    by_itself = FrozenCopy(model)
    assert alike.sees_alike and not by_itself.sees_alike
    encoded = model.encode(tiny_batch.image1, tiny_batch.sizes)
    _ = encoded.tokens
    encode_image, seen = MaskCaptionModel.encode_image, []

    def counted(model: MaskCaptionModel, *images: Any) -> Any:
        seen.append(model)
        return encode_image(model, *images)

    monkeypatch.setattr(MaskCaptionModel, "encode_image", counted)
    known_states(alike, model, tiny_batch, encoded.frozen([0, 1]))
    assert seen == []
    known_states(by_itself, model, tiny_batch, encoded.frozen([0, 1]))
    assert seen == [by_itself.model]


def test_only_what_trains_is_copied(named_model: tuple[str, MaskCaptionModel]) -> None:
    name, model = named_model
    freeze(model, [*VISION[name], "*.mlp.*"])
    model.train()
    model.vlm.language_model.eval()
    flags = {n: weight.requires_grad for n, weight in model.named_parameters()}
    modes = {n: part.training for n, part in model.named_modules()}
    values = {n: weight.clone() for n, weight in model.state_dict().items()}
    frozen = FrozenCopy(model)
    own = dict(model.named_parameters())
    copied = dict(frozen.model.named_parameters())
    assert copied.keys() == {n for n in own if n.startswith("vlm.") or n == "region_marker"}
    assert {n for n in copied if copied[n].data_ptr() == own[n].data_ptr()} == {n for n in copied if not flags[n]}
    assert {copied[n] is own[n] for n in copied if not flags[n]} == {True}
    assert frozen.state_dict().keys() == {n for n in copied if flags[n]}
    assert any(flags[n] for n in copied) and not all(flags[n] for n in copied)
    assert frozen.model.segmenter is None and frozen.model.seg_mlp is None and frozen.model.grounding is None
    assert frozen.model.vlm.tokenizer is model.vlm.tokenizer
    buffers = dict(model.named_buffers())
    assert all(buffers[n] is buffer for n, buffer in frozen.model.named_buffers())
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert not any(part.training for part in frozen.model.modules())
    # and the model is as it was
    assert {n: weight.requires_grad for n, weight in model.named_parameters()} == flags
    assert {n: part.training for n, part in model.named_modules()} == modes
    assert all(torch.equal(weight, values[n]) for n, weight in model.state_dict().items())
    assert model.segmenter is not None and model.grounding is not None


def test_tied_embeddings_stay_tied_in_the_copy(named_model: tuple[str, MaskCaptionModel]) -> None:
    model = named_model[1]
    vlm: Any = FrozenCopy(model).model.vlm
    assert vlm.head_weight is vlm.embedding_weight and vlm.head_weight is not model.vlm.head_weight


def test_a_head_of_its_own_is_no_part_of_seeing(named_model: tuple[str, MaskCaptionModel]) -> None:
    name, model = named_model
    freeze(model, VISION[name])
    vlm: Any = model.vlm
    vlm.model.get_output_embeddings().weight = nn.Parameter(vlm.head_weight.detach().clone())
    assert vlm.head_weight is not vlm.embedding_weight
    assert FrozenCopy(model).sees_alike


def test_a_copys_checkpoint_brings_it_back_beside_another_model(
    named_model: tuple[str, MaskCaptionModel], tiny_batch: Batch
) -> None:
    name, model = named_model
    freeze(model, VISION[name])
    then, before = FrozenCopy(model), own_states(model, tiny_batch)
    state = {n: weight.clone() for n, weight in then.state_dict().items()}
    assert state and not any(weight.requires_grad for weight in state.values())
    train_a_bit(model)
    now = FrozenCopy(model)
    assert (known_states(now, model, tiny_batch) - before).abs().max() > 0.05
    trained = own_states(model, tiny_batch)
    now.load_state_dict(state)
    torch.testing.assert_close(known_states(now, model, tiny_batch), before)
    assert torch.equal(own_states(model, tiny_batch), trained)  # loaded into the copy alone


def test_a_checkpoint_of_other_weights_is_refused(named_model: tuple[str, MaskCaptionModel]) -> None:
    model = named_model[1]
    state = FrozenCopy(model).state_dict()
    freeze(model, ["region_marker"])
    with pytest.raises(CheckpointError, match=r"\(region_marker is in one of them only\): resume with the same frozen"):
        FrozenCopy(model).load_state_dict(state)


def with_lora(model: MaskCaptionModel) -> None:
    """LoRA that changes what the model says, with much dropout; in evaluation mode."""
    targets = ("q_proj", "v_proj", "down_proj")
    add_lora(model.vlm.language_model, LoRA(rank=2, alpha=4, dropout=0.5, targets=targets))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    adapters = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert adapters
    for weight in adapters:
        weight.data.normal_(generator=generator)
    model.eval()


def test_without_adapters_the_model_is_as_before_they_came(
    named_model: tuple[str, MaskCaptionModel], tiny_batch: Batch
) -> None:
    model = named_model[1]
    before = own_states(model, tiny_batch)
    with_lora(model)
    adapted = own_states(model, tiny_batch)
    assert (adapted - before).abs().max() > 0.05
    for layer in model.vlm.language_model.layers:  # type: ignore[union-attr]
        layer.self_attn.attention_dropout = 0.5
    model.train()  # dropout must not reach the reference
    flags = {n: weight.requires_grad for n, weight in model.named_parameters()}
    modes = {n: part.training for n, part in model.named_modules()}
    torch.testing.assert_close(known_states(None, model, tiny_batch), before)
    assert {n: weight.requires_grad for n, weight in model.named_parameters()} == flags
    assert {n: part.training for n, part in model.named_modules()} == modes
    torch.testing.assert_close(own_states(model.eval(), tiny_batch), adapted)


def test_a_copy_beside_lora_holds_the_adapters_alone(
    named_model: tuple[str, MaskCaptionModel], tiny_batch: Batch
) -> None:
    name, model = named_model
    with_lora(model)
    freeze(model, [*VISION[name], "*embed_tokens.weight"])
    frozen, before = FrozenCopy(model), own_states(model, tiny_batch)
    names = set(frozen.state_dict())
    assert names - {"region_marker"} == {n for n, _ in model.named_parameters() if "lora_" in n}
    train_a_bit(model)
    assert (own_states(model, tiny_batch) - before).abs().max() > 0.01
    torch.testing.assert_close(known_states(frozen, model, tiny_batch), before)


def test_adapters_come_back_after_an_error(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    with_lora(tiny_model)
    first = next(weight for name, weight in tiny_model.named_parameters() if "lora_A" in name)
    first.requires_grad_(False)  # an adapter that someone froze stays frozen
    adapted = own_states(tiny_model, tiny_batch)
    tiny_model.train()
    tiny_model.vlm.language_model.layers[0].eval()  # type: ignore[index]
    flags = {n: weight.requires_grad for n, weight in tiny_model.named_parameters()}
    modes = {n: part.training for n, part in tiny_model.named_modules()}
    with pytest.raises(KeyError, match="inside"), without_adapters(tiny_model.vlm), evaluating(tiny_model.vlm):
        assert not any(part.training for part in tiny_model.vlm.modules())
        raise KeyError("inside")
    assert {n: weight.requires_grad for n, weight in tiny_model.named_parameters()} == flags
    assert {n: part.training for n, part in tiny_model.named_modules()} == modes
    assert not first.requires_grad
    torch.testing.assert_close(own_states(tiny_model.eval(), tiny_batch), adapted)


def test_without_adapters_needs_adapters(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    with pytest.raises(ConfigError, match="adapters_off, but the model has no adapters: give model.lora, or use refe"):
        known_states(None, tiny_model, tiny_batch)


def test_evaluating_leaves_parts_as_they_were() -> None:
    part = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    part[1][0].eval()
    with evaluating(part):
        assert [each.training for each in part.modules()] == [False] * 5
    assert [each.training for each in part.modules()] == [True, True, True, False, True]
    with pytest.raises(KeyError), evaluating(part):
        raise KeyError
    assert [each.training for each in part.modules()] == [True, True, True, False, True]


def test_regions_tokens_are_cut_off_the_graph() -> None:
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cut = RegionTokens(features, [1, 2]).detached()
    assert torch.equal(cut.features, features) and not cut.features.requires_grad and cut.counts == [1, 2]
