"""The cycle on drawn batches: its gradient against finite differences, its forward against caption → mask by text."""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.regions import draw_batch
from maskcap.data.batch import Batch
from maskcap.errors import ConfigError, SequenceTooLongError
from maskcap.loops.base import Curriculum, Loop, LoopOutput, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.adapters import LoRA, add_lora
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl, tiny_sam2
from maskcap.models.vlm.interface import Generated

MASK_PARTS = ("grounding", "contrast", "mask_ce", "mask_dice", "answer")


def wordless(batch: Batch, regions: list[int] | None = None) -> Batch:
    """The batch without the words of these regions, or of all."""
    without = range(len(batch.region_ids)) if regions is None else regions
    caption: list[str | None] = [None if r in without else text for r, text in enumerate(batch.caption)]
    phrase: list[str | None] = [None if r in without else text for r, text in enumerate(batch.phrase)]
    return replace(batch, caption=caption, phrase=phrase)


def step(model: MaskCaptionModel, loop: Loop, batch: Batch, progress: float = 0.9, seed: int = 0) -> LoopOutput:
    """One step of one loop, by this seed."""
    context = StepContext(
        model.encode(batch.image1, batch.sizes), progress, generator=torch.Generator().manual_seed(seed)
    )
    return loop(model, batch, context)


def qwen_model() -> MaskCaptionModel:
    """Qwen2-VL at 32 px."""
    vlm = tiny_qwen2_vl(image_size=32, patch_size=4, hidden_size=32, vit_size=16, vit_layers=1, lm_layers=1)
    return MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64), grounding=True)


def in_float64(model: MaskCaptionModel) -> MaskCaptionModel:
    """Weights with some size, in float64 throughout: the library's norms would go by float32."""

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    model.double()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(norm, module)
    return model


@pytest.mark.parametrize("make", ["internvl", "qwen2_vl"])
def test_gradient_agrees_with_finite_differences_of_the_soft_relaxation(
    make: str, tiny_model: MaskCaptionModel
) -> None:
    """Along the gradient of each of the captioner's parts; with a step of 1e-4 the truncation is far below 1e-5."""
    model = in_float64(tiny_model if make == "internvl" else qwen_model())
    batch = wordless(draw_batch(2, 2, 64))
    batch = replace(batch, image1=batch.image1.double())
    cycle = Cycle(hard=False, max_new_tokens=5, temperature=0.7, top_k=50, length_weight=0.1, length_target=2)
    loss = step(model, cycle, batch).loss
    assert loss.dtype == torch.float64
    loss.backward()
    weights = dict(model.named_parameters())
    names = ["region_marker", "vlm.model.model.language_model.layers.0.mlp.up_proj.weight"]
    names += [name for name in weights if "lm_head" in name or "embed_tokens" in name]
    names += [
        next(name for name in weights if "vision" in name and "mlp" in name or "visual" in name and "mlp" in name)
    ]
    for name in names:
        weight, gradient = weights[name], weights[name].grad
        assert gradient is not None and gradient.norm() > 1e-4, name
        before, direction = weight.data.clone(), gradient / gradient.norm()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                weight.data = before + sign * 1e-4 * direction
                values.append(step(model, cycle, batch).loss.item())
            weight.data = before
        found = (values[0] - values[1]) / 2e-4
        assert found == pytest.approx(gradient.norm().item(), rel=1e-4), name


def test_the_captioner_learns_through_the_phrase_alone_and_can_be_cut_off(tiny_model: MaskCaptionModel) -> None:
    """The marker of region tokens takes part in the captions only: what reaches it came through the phrase."""
    batch = wordless(draw_batch(2, 2, 64))
    gradients = []
    for stop in (False, True):
        tiny_model.zero_grad()
        step(tiny_model, Cycle(max_new_tokens=5, stop_gradient=stop), batch).loss.backward()
        gradient = tiny_model.region_marker.grad
        gradients.append(0.0 if gradient is None else gradient.norm().item())
        segmenting = tiny_model.seg_mlp[0].weight.grad
        assert segmenting is not None and segmenting.norm() > 0
    assert gradients[0] > 1e-6 and gradients[1] == 0


def test_self_training_is_caption_to_mask_on_the_models_own_words(
    tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gradient stopped at the caption, every gradient is that of the same phrases as text."""
    batch = draw_batch(2, 2, 64)
    said = [caption or "" for caption in batch.caption]
    end = tiny_model.vlm.conversation.end
    ids = [tiny_model.vlm.tokenizer(text + end, add_special_tokens=False).input_ids for text in said]
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: Generated(said, [False] * 4, ids))
    found = []
    for loop, given in (
        (Cycle(stop_gradient=True, answer_weight=0.1), wordless(batch)),
        (CaptionToMask(), replace(batch, phrase=list(said))),
    ):
        tiny_model.zero_grad()
        step(tiny_model, loop, given).loss.backward()
        weights = tiny_model.named_parameters()
        found.append({name: p.grad.clone() for name, p in weights if p.grad is not None and p.grad.any()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        scale = gradient.abs().max().item() + 1e-4
        torch.testing.assert_close(found[0][name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("make", ["internvl", "qwen2_vl"])
@pytest.mark.parametrize("packing", ["tree", "none"])
def test_hard_forward_is_that_of_the_captions_as_text(
    make: str, packing: Any, tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of captions that are known: the cycle's losses equal caption → mask's on a batch whose phrases they are."""
    model = tiny_model if make == "internvl" else qwen_model()
    model.packing = packing
    batch = draw_batch(2, 3, 64)
    said = [caption or "" for caption in batch.caption]
    end = model.vlm.conversation.end
    ids = [model.vlm.tokenizer(text + end, add_special_tokens=False).input_ids for text in said]
    monkeypatch.setattr(model, "generate", lambda *_, **__: Generated(said, [False] * 6, ids))
    cycle = step(model, Cycle(answer_weight=0.1), wordless(batch)).logs
    expected = step(model, CaptionToMask(), replace(batch, phrase=list(said))).logs
    for part in MASK_PARTS:
        torch.testing.assert_close(cycle[part], expected[part], rtol=1e-5, atol=1e-6, msg=part)
    soft = step(model, Cycle(hard=False), wordless(batch)).logs
    assert abs(soft["grounding"] - expected["grounding"]) > 1e-4


@pytest.mark.parametrize("make", ["internvl", "qwen2_vl"])
def test_packing_changes_nothing(make: str, tiny_model: MaskCaptionModel) -> None:
    """All loops in one step on a half-labelled batch of several regions: losses and gradients of tree equal none's."""
    model = tiny_model if make == "internvl" else qwen_model()
    batch = wordless(draw_batch(3, 3, 64), [3, 4, 5, 7])
    found = []
    for packing in ("tree", "none"):
        model.packing = packing
        model.zero_grad()
        loops: dict[str, Loop] = {
            "m2c": MaskToCaption(),
            "c2m": CaptionToMask(),
            "cycle": Cycle(max_new_tokens=6, reference="copy", kl_weight=0.1),
        }
        context = StepContext(model.encode(batch.image1, batch.sizes), 0.9, generator=torch.Generator().manual_seed(1))
        outputs = run_loops(model, loops, batch, context)
        torch.stack([output.loss for output in outputs.values()]).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append(({name: output.loss.detach() for name, output in outputs.items()}, gradients))
    (tree, gradients), (none, expected) = found
    torch.testing.assert_close(tree, none, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1e-3 * largest)
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-3 * scale, msg=name)


def test_the_noise_is_the_steps_own(tiny_model: MaskCaptionModel) -> None:
    """The same seed draws the same captions and loss, another one others; global random numbers have no part."""
    batch = wordless(draw_batch(2, 2, 64))
    cycle = Cycle(max_new_tokens=6)
    torch.manual_seed(1)
    first = step(tiny_model, cycle, batch)
    torch.manual_seed(2)
    again, other = step(tiny_model, cycle, batch), step(tiny_model, cycle, batch, seed=5)
    assert torch.equal(first.loss, again.loss) and not torch.equal(first.loss, other.loss)


def test_warm_up_ramp_and_temperature(tiny_model: MaskCaptionModel) -> None:
    batch = wordless(draw_batch(2, 2, 64))
    cycle = Cycle(start=0.5, ramp=0.2, max_new_tokens=4, temperature=2.0, final_temperature=0.5)
    silent = step(tiny_model, cycle, batch, progress=0.49)
    assert silent.loss == 0 and silent.logs == {} and silent.loss.requires_grad
    half, whole = step(tiny_model, cycle, batch, progress=0.6), step(tiny_model, cycle, batch, progress=0.75)
    assert half.loss.item() == pytest.approx(0.5 * half.logs["loss"].item(), rel=1e-4)
    assert whole.loss.item() == pytest.approx(whole.logs["loss"].item(), rel=1e-4)
    assert whole.logs["temperature"].item() == pytest.approx(1.0)  # half way from 2 to 0.5, geometrically
    assert Cycle(start=0.8, ramp=0.2).ramp == 0.2 and Cycle(start=0.9, ramp=0.1).ramp == 0.1


def test_which_regions_take_part(tiny_model: MaskCaptionModel) -> None:
    batch = draw_batch(2, 2, 64)
    assert step(tiny_model, Cycle(), batch).logs == {}
    assert step(tiny_model, Cycle(max_new_tokens=3), wordless(batch, [1, 2, 3])).logs["regions"] == 3
    assert step(tiny_model, Cycle(max_new_tokens=3, regions="all"), batch).logs["regions"] == 4


def test_logs_of_known_captions(tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caption twice, one cut for length, one empty: which segments nothing, and its loss stays a number."""
    batch = wordless(draw_batch(2, 2, 64))
    tokenizer, end = tiny_model.vlm.tokenizer, tiny_model.vlm.conversation.end
    texts = ["red cross", "red cross", "large blue circle", ""]
    ids = [tokenizer(text + end, add_special_tokens=False).input_ids for text in texts]
    ids[2] = ids[2][:-1]
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: Generated(texts, [False, False, True, False], ids))
    output = step(tiny_model, Cycle(repetition_weight=1.0, length_weight=1.0, length_target=1), batch)
    logs = {name: value.item() for name, value in output.logs.items()}
    assert logs["length"] == pytest.approx((3 + 3 + 3 + 1) / 4)
    assert logs["distinct"] == 0.75 and logs["truncated"] == 0.25 and logs["empty"] == 0.25 and logs["regions"] == 4
    assert 0 < logs["entropy"] < 7 and logs["too_long"] > 0 and logs["repeated"] > 0
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: Generated([""] * 4, [False] * 4, [ids[3]] * 4))
    nothing = step(tiny_model, Cycle(), batch)
    assert nothing.logs["empty"] == 1 and not set(MASK_PARTS) & nothing.logs.keys()
    nothing.loss.backward()


def test_of_a_pair_the_other_frame_is_the_target(tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same captions: losses equal caption → mask's on the second frame and its masks."""
    first, second = draw_batch(2, 2, 64), draw_batch(2, 2, 64, seed=5)
    pairs = replace(wordless(first, [1, 2, 3]), image2=second.image1, mask2=second.mask1)
    said = [caption or "" for caption in first.caption[1:]]
    end = tiny_model.vlm.conversation.end
    ids = [tiny_model.vlm.tokenizer(text + end, add_special_tokens=False).input_ids for text in said]
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: Generated(said, [False] * 3, ids))
    cycle = step(tiny_model, Cycle(), pairs).logs
    expected = step(tiny_model, CaptionToMask(), replace(second, phrase=[None, *said])).logs
    for part in MASK_PARTS[:4]:
        torch.testing.assert_close(cycle[part], expected[part], rtol=1e-5, atol=1e-6, msg=part)
    context = StepContext(tiny_model.encode(pairs.image1))
    Cycle()(tiny_model, pairs, context)
    work = context.encoded.work  # of both frames: the first of both images, the second of both, each once
    assert work.vlm_images == 4 and work.sam_images == 2 and work.masks == 3


def test_a_caption_that_may_not_fit_is_refused_before_it_is_drawn(tiny_model: MaskCaptionModel) -> None:
    """So a run does not end by the length of one draw."""
    batch = wordless(draw_batch(2, 2, 64))
    tiny_model.max_length = 45
    assert step(tiny_model, Cycle(max_new_tokens=4), batch).logs["regions"] == 4
    with pytest.raises(SequenceTooLongError, match=r"drawn/train/. region .*loops.cycle.max_new_tokens"):
        step(tiny_model, Cycle(max_new_tokens=40), batch)


def test_predictions_by_the_models_own_captions(tiny_model: MaskCaptionModel) -> None:
    model, batch = tiny_model.eval(), draw_batch(2, 2, 64)
    encoded = model.encode(batch.image1)
    captions = MaskToCaption().predict(model, batch, encoded).captions
    found = Cycle().predict(model, batch, encoded)
    assert found.phrases == captions and found.score == "cycle" and found.regions == [0, 1, 2, 3]
    expected = model.segment(batch.image1, found.phrases or [], batch.region_image)
    torch.testing.assert_close(found.mask_logits, expected)
    other = draw_batch(2, 2, 64, seed=5)
    pairs = replace(batch, image2=other.image1, mask2=other.mask1)
    crossed = Cycle().predict(model, pairs, model.encode(batch.image1))
    assert crossed.score == "cross_frame" and crossed.phrases == captions
    torch.testing.assert_close(crossed.mask_logits, model.segment(other.image1, captions or [], batch.region_image))


def test_questions_of_the_data_are_not_the_cycles(
    tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model.eval(), replace(draw_batch(1, 2, 64), question=["what colour?", None])
    asked: list[list[str | None]] = []

    def generate(encoded: Any, mask1: Any, region_image: Any, questions: list[str | None], names: Any) -> Generated:
        asked.append(list(questions))
        return Generated(["a", "b"], [False, False])

    monkeypatch.setattr(model, "generate_captions", generate)
    encoded = model.encode(batch.image1)
    MaskToCaption().predict(model, batch, encoded)
    Cycle().predict(model, batch, encoded)
    assert asked == [["what colour?", None], [None, None]]


def test_the_curriculum_leaves_sam2_and_the_image_out(
    tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = wordless(draw_batch(2, 2, 64))
    curriculum = Curriculum(image_token_dropout=1.0, segmenter_from=0.95)
    context = StepContext(tiny_model.encode(batch.image1), 0.9, curriculum, torch.Generator().manual_seed(0))
    kept: list[list[bool]] = []
    read = tiny_model.read

    def noted(encoded: Any, asked: Any) -> Any:
        kept.append([segment.keep_image for questions in asked for segment in questions.segments])
        return read(encoded, asked)

    monkeypatch.setattr(tiny_model, "read", noted)
    logs = Cycle(max_new_tokens=4)(tiny_model, batch, context).logs
    assert "mask_ce" not in logs and "grounding" in logs
    assert kept == [[True] * 4, [False] * 4]  # captions are read as they were rolled out, with the image


def test_the_rollout_runs_without_dropout(tiny_model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the parts' modes, one of them set apart on purpose, are afterwards what they were."""
    tiny_model.train()
    modes: list[bool] = []
    generate = tiny_model.generate

    def noted(*given: Any, **options: Any) -> Any:
        modes.extend(module.training for module in tiny_model.vlm.modules())
        return generate(*given, **options)

    monkeypatch.setattr(tiny_model, "generate", noted)
    apart = next(module for module in tiny_model.vlm.modules() if isinstance(module, nn.LayerNorm))
    apart.eval()
    before = [module.training for module in tiny_model.modules()]
    step(tiny_model, Cycle(max_new_tokens=3, reference="copy"), wordless(draw_batch(2, 2, 64)))
    assert modes and not any(modes) and [module.training for module in tiny_model.modules()] == before


def test_in_bfloat16_weights_that_the_rollout_used_still_learn(tiny_model: MaskCaptionModel) -> None:
    """Forwards with and without gradient under one autocast, which keeps what it has cast."""
    batch = wordless(draw_batch(2, 2, 64))
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(tiny_model, Cycle(max_new_tokens=4, reference="copy", kl_weight=0.1), batch).loss
    loss.backward()
    weight = tiny_model.vlm.language_model.layers[0].self_attn.q_proj.weight
    assert weight.grad is not None and weight.grad.norm() > 0 and tiny_model.region_marker.grad is not None


def test_the_frozen_copy_travels_with_the_checkpoint(tiny_model: MaskCaptionModel) -> None:
    """A resumed loop compares with the captioner of the cycle's start, not with the one that it is resumed with."""
    batch = wordless(draw_batch(2, 2, 64))
    cycle = Cycle(max_new_tokens=4, reference="copy", kl_weight=1.0)
    assert cycle.state_dict() == {}
    assert step(tiny_model, cycle, batch).logs["kl"].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for weight in tiny_model.vlm.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    moved = step(tiny_model, cycle, batch).logs["kl"].item()
    resumed = Cycle(max_new_tokens=4, reference="copy", kl_weight=1.0)
    resumed.load_state_dict(cycle.state_dict())
    assert resumed.state_dict().keys() == {"copy"}
    assert moved > 1e-3 and step(tiny_model, resumed, batch).logs["kl"].item() == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"final_temperature": float("nan")}, "final_temperature"),
        ({"length_weight": -0.1}, "length_weight"),
        ({"start": 1.0}, "start"),
        ({"start": 0.8, "ramp": 0.3}, "ramp"),
        ({"stop_gradient": True, "hard": False}, "hard"),
        ({"regions": "some"}, "regions"),
        ({"reference": "teacher"}, "reference"),
        ({"kl_weight": 0.1}, "needs a reference"),
        ({"top_k": 0}, "top_k"),
    ],
)
def test_contradictions_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cycle(**given)


def test_a_reference_without_adapters_needs_adapters(tiny_model: MaskCaptionModel) -> None:
    """Known before a fit, not when the cycle begins."""
    with pytest.raises(ConfigError, match="adapters_off"):
        Cycle(reference="adapters_off").check(tiny_model)
    Cycle(reference="copy").check(tiny_model)
    add_lora(tiny_model.vlm.language_model, LoRA(rank=2))
    Cycle(reference="adapters_off").check(tiny_model)


def test_without_the_reference_a_resumed_run_lets_go_of_its_copy(tiny_model: MaskCaptionModel) -> None:
    cycle = Cycle(reference="copy", max_new_tokens=2)
    step(tiny_model, cycle, wordless(draw_batch(1, 1, 64)))
    resumed = Cycle()
    resumed.load_state_dict(cycle.state_dict())
    assert resumed.state_dict() == {} and resumed._saved_copy is None
