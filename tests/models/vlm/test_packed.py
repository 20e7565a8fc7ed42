"""Packed images through the stock models: equal to them where nothing is coarse, and consistent where it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from maskcap.errors import ConfigError
from maskcap.models.vlm.adaptive_processor import AdaptiveQwen2VLProcessor
from maskcap.models.vlm.packed import forward_inputs, generate_packed, guard_packed_grids

Draw = Callable[..., np.ndarray]
Prompt = Callable[..., str]
Process = Callable[..., Any]
BUDGET = {"patch_selection_method": "budget", "alpha": 0.4}
FINE = {"patch_selection_method": "budget", "alpha": 1}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
CELLS = ("image_cells", "image_num_cells")


@pytest.fixture
def process(qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt) -> Process:
    """`process(images a row, settings, side)` → the processor's output for rows of different texts and images."""

    def make(per_row: tuple[int, ...], settings: dict[str, Any], side: str = "left") -> Any:
        qwen_processor.tokenizer.padding_side = side
        sizes = [(280, 392), (140, 224), (392, 252), (252, 252)]
        images = [draw(*size, seed=seed) for seed, size in enumerate(sizes)][: sum(per_row)]
        words = ["describe the region", "red", "what colour is this large square", "blue"]
        text = [prompt(count, word) if count else word for count, word in zip(per_row, words, strict=False)]
        return qwen_processor(
            images=images or None, text=text, padding=True, return_tensors="pt", images_kwargs=settings
        )

    return make


def stock_inputs(inputs: Any) -> dict[str, Any]:
    """What the stock processor would have returned."""
    return {key: value for key, value in inputs.items() if key not in CELLS}


def log_probs(model: Any, inputs: Any, row: int, new_ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (new, V) of what follows one row's prompt, by one forward call over prompt and `new_ids`."""
    rows = {"input_ids": torch.cat([inputs["input_ids"][row], new_ids])[None]}
    ones = torch.ones_like(new_ids)
    rows["attention_mask"] = torch.cat([inputs["attention_mask"][row], ones])[None]
    if (only := one_row(model, inputs, row)) is not None:
        rows.update(only)
    with torch.no_grad():
        logits = model(**forward_inputs(model, rows)).logits[0]
    return logits[-len(new_ids) - 1 : -1].log_softmax(-1)


def one_row(model: Any, inputs: Any, row: int) -> dict[str, torch.Tensor] | None:
    """The images of one row of inputs with `image_cells`."""
    counts = inputs["image_num_cells"]
    ends = [0, *counts.cumsum(0).tolist()]
    slots = (inputs["input_ids"] == model.config.image_token_id).sum(1).cumsum(0).tolist()
    first, last = ends.index(slots[row - 1] if row else 0), ends.index(slots[row])
    if first == last:
        return None
    return {
        "pixel_values": inputs["pixel_values"][4 * ends[first] : 4 * ends[last]],
        "image_grid_thw": inputs["image_grid_thw"][first:last],
        "image_cells": inputs["image_cells"][ends[first] : ends[last]],
        "image_num_cells": counts[first:last],
    }


@pytest.mark.parametrize("settings", [{}, FINE], ids=["off", "alpha 1"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("per_row", [(1,), (2, 0, 1), (0, 1)])
def test_forward_is_the_stock_models_bit_for_bit(
    settings: dict[str, Any], side: str, per_row: tuple[int, ...], qwen: Any, process: Process
) -> None:
    inputs = process(per_row, settings, side)
    with torch.no_grad():
        expected = qwen(**stock_inputs(inputs)).logits
        given = forward_inputs(qwen, inputs)
        found = qwen(**given).logits
    assert torch.equal(found, expected)
    stock_positions, _ = qwen.model.get_rope_index(**stock_inputs(inputs))
    assert torch.equal(given["position_ids"], stock_positions)
    moved = {**given, "image_position_ids": given["image_position_ids"].flip(0)}
    with torch.no_grad():
        assert not torch.equal(qwen(**moved).logits, expected)  # the test would see wrong positions


@pytest.mark.parametrize("settings", [{}, FINE], ids=["off", "alpha 1"])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {"use_cache": False}]
)
def test_generation_is_the_stock_models(
    settings: dict[str, Any], options: dict[str, Any], qwen: Any, process: Process
) -> None:
    inputs = process((2, 0, 1), settings)
    options = {**GREEDY, **options}
    torch.manual_seed(1)
    expected = qwen.generate(**stock_inputs(inputs), **options)
    torch.manual_seed(1)
    found = generate_packed(qwen, inputs, **options)
    assert torch.equal(found, expected)
    new = found[:, inputs["input_ids"].shape[1] :]
    assert len(new.unique(dim=0)) > 1  # the rows differ, so that a mix-up would show


def test_text_alone_is_the_stock_models(qwen: Any, process: Process) -> None:
    inputs = process((0, 0), {})
    assert "pixel_values" not in inputs
    with torch.no_grad():
        assert torch.equal(qwen(**forward_inputs(qwen, inputs)).logits, qwen(**inputs).logits)
    assert torch.equal(generate_packed(qwen, inputs, **GREEDY), qwen.generate(**inputs, **GREEDY))


def test_text_goes_on_after_the_longer_side_of_the_grid(qwen: Any, process: Process) -> None:
    inputs = process((2,), BUDGET)
    cells, counts = inputs["image_cells"], inputs["image_num_cells"].tolist()
    assert sorted(set(cells[:, 2].tolist())) == [0, 1, 2]
    positions = forward_inputs(qwen, inputs)["position_ids"][:, 0]
    slots = (inputs["input_ids"][0] == qwen.config.image_token_id).nonzero()[:, 0]
    first, second = slots[: counts[0]], slots[counts[0] :]
    start = int(first[0])  # text before the first image: one position a token
    assert positions[:, :start].tolist() == [list(range(start))] * 3
    for axis in (0, 1):
        middle = cells[: counts[0], axis] + torch.tensor([0, 0, 1])[cells[: counts[0], 2]]
        assert torch.equal(positions[1 + axis, first], start + middle)
    assert (positions[0, first] == start).all()
    after = start + max(inputs["image_grid_thw"][0].tolist()) // 2
    between = positions[:, first[-1] + 1 : second[0]]  # end of the first image, start of the second
    assert between.tolist() == [[after, after + 1]] * 3
    assert (positions[0, second] == after + 2).all()
    last = after + 2 + max(inputs["image_grid_thw"][1].tolist()) // 2
    rest = positions.shape[1] - int(second[-1]) - 1
    assert positions[:, second[-1] + 1 :].tolist() == [list(range(last, last + rest))] * 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_batch_is_the_row_alone(side: str, qwen: Any, process: Process) -> None:
    inputs = process((1, 2, 0), BUDGET, side)
    assert inputs["image_num_cells"].sum() < inputs["image_grid_thw"].prod(1).sum() // 4
    with torch.no_grad():
        batch = qwen(**forward_inputs(qwen, inputs)).logits
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        alone = {"input_ids": inputs["input_ids"][row][kept][None], **(one_row(qwen, inputs, row) or {})}
        with torch.no_grad():
            logits = qwen(**forward_inputs(qwen, alone)).logits[0]
        torch.testing.assert_close(batch[row, kept], logits, atol=2e-4, rtol=1e-4)
        if side == "left":
            found = generate_packed(qwen, inputs, **GREEDY)[row, inputs["input_ids"].shape[1] :]
            assert torch.equal(found, generate_packed(qwen, alone, **GREEDY)[0, alone["input_ids"].shape[1] :])


def test_forward_and_greedy_generation_agree(qwen: Any, process: Process) -> None:
    inputs = process((1, 2, 0), BUDGET)
    found = generate_packed(qwen, inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    for row, ids in enumerate(found):
        assert torch.equal(log_probs(qwen, inputs, row, ids).argmax(-1), ids)


def test_forward_and_beams_agree(qwen: Any, process: Process) -> None:
    inputs = process((1, 2, 0), BUDGET)
    options = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0, "max_new_tokens": 5}
    options |= {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, "eos_token_id": 10**6}
    found = generate_packed(qwen, inputs, **options)
    new = found.sequences[:, inputs["input_ids"].shape[1] :]
    assert len(new.unique(dim=0)) == 12
    for index, (ids, score) in enumerate(zip(new, found.sequences_scores, strict=True)):
        each = log_probs(qwen, inputs, index // 4, ids).gather(1, ids[:, None])
        torch.testing.assert_close(each.sum(), score, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_tower(qwen: Any, process: Process) -> None:
    inputs = process((1,), BUDGET)
    qwen(**forward_inputs(qwen, {**inputs, "labels": inputs["input_ids"]})).loss.backward()
    assert qwen.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_generation_leaves_the_model_as_it_was(qwen: Any, process: Process) -> None:
    stock = process((2, 1), {})
    expected = qwen.generate(**stock, **GREEDY)
    deltas = qwen.model.rope_deltas
    embeds = qwen.get_input_embeddings()(stock["input_ids"])
    with torch.no_grad():
        logits = qwen(inputs_embeds=embeds).logits  # reads rope_deltas
    inputs = process((1,), BUDGET)
    first = generate_packed(qwen, inputs, **GREEDY)
    assert qwen.model.rope_deltas is deltas
    assert torch.equal(generate_packed(qwen, inputs, **GREEDY), first)
    generate_packed(qwen, process((0, 0), {}), **GREEDY)
    with torch.no_grad():
        assert torch.equal(qwen(inputs_embeds=embeds).logits, logits)
    assert torch.equal(qwen.generate(**stock, **GREEDY), expected)


def test_each_window_sees_only_its_own_cells(qwen2_5_vl: Qwen2_5_VLForConditionalGeneration, process: Process) -> None:
    qwen2_5_vl.model.visual.fullatt_block_indexes = []
    inputs = process((1,), BUDGET)
    given = forward_inputs(qwen2_5_vl, inputs)
    names = ("pixel_values", "image_grid_thw", "image_position_ids", "image_window_index", "image_cu_window_seqlens")
    tower = {name: given[name] for name in names}
    cells = inputs["image_cells"]
    with torch.no_grad():
        before = qwen2_5_vl.get_image_features(**tower).pooler_output[0]
        pixels = tower["pixel_values"].clone()
        pixels[:4] += 1  # the first cell, which is in the upper left window
        after = qwen2_5_vl.get_image_features(**{**tower, "pixel_values": pixels}).pooler_output[0]
    changed = ((before - after).abs() > 1e-6).any(1)
    assert torch.equal(changed, (cells[:, 0] < 4) & (cells[:, 1] < 4))


def test_cells_larger_than_a_window(qwen2_5_vl: Qwen2_5_VLForConditionalGeneration, process: Process) -> None:
    coarse = {"patch_selection_method": "v1", "patch_levels": 4, "patch_thresholds": [9.0, 9.0, 9.0]}
    inputs = process((1,), coarse)
    assert inputs["image_cells"][:, 2].max() == 3
    with pytest.raises(ConfigError, match="patch_levels"):
        forward_inputs(qwen2_5_vl, inputs)


def test_the_guard_refuses_what_would_be_silently_wrong(qwen: Any, process: Process) -> None:
    inputs = process((1,), BUDGET)
    bare = copy.deepcopy(qwen)
    packed = forward_inputs(qwen, inputs)  # guards the model
    strip = {key: packed[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    strip["mm_token_type_ids"] = inputs["mm_token_type_ids"]
    tower = {key: packed[key] for key in ("pixel_values", "image_grid_thw")}
    with torch.no_grad():
        expected = qwen(**packed).logits
        wrong = bare(**strip).logits  # runs: this is why there is a guard
    assert wrong.shape == expected.shape and not torch.allclose(wrong, expected, atol=1e-3)
    guard_packed_grids(qwen)
    guard_packed_grids(qwen)
    assert [len(m._forward_pre_hooks) for m in (qwen, qwen.model, qwen.model.visual)] == [1, 1, 1]
    with pytest.raises(ConfigError, match="generate_packed"):
        qwen(**{key: value for key, value in packed.items() if key != "image_position_ids"})
    for one in ({}, {"position_ids": packed["position_ids"]}, {"image_position_ids": packed["image_position_ids"]}):
        with pytest.raises(ConfigError, match="generate_packed"):
            qwen(**strip, **one)
        with pytest.raises(ConfigError, match="generate_packed"):
            qwen.model(**strip, **one)
    for call in (lambda: qwen.generate(**strip, **GREEDY), lambda: qwen.get_image_features(**tower)):
        with pytest.raises(ConfigError, match="generate_packed"):
            call()
    with pytest.raises(ConfigError, match="one block high"):  # an image that became a single coarse cell
        qwen.get_image_features(packed["pixel_values"][:4], torch.tensor([[1, 2, 2]]))
    for given in (inputs, process((1,), FINE)):
        with pytest.raises(ConfigError, match="image_cells"):
            qwen(**given)
    with pytest.raises(ConfigError, match="strip"):  # by place: input_ids, mask, …
        qwen.model(
            strip["input_ids"], None, None, None, None, None, strip["pixel_values"], None, packed["image_grid_thw"]
        )
    with torch.no_grad():
        assert torch.equal(qwen(**packed).logits, expected)
        assert torch.equal(copy.deepcopy(qwen)(**packed).logits, expected)
    assert generate_packed(qwen, inputs, **GREEDY).shape[0] == 1


def test_the_guard_lets_true_images_through(
    qwen: Any, qwen_processor: AdaptiveQwen2VLProcessor, process: Process, draw: Draw, prompt: Prompt
) -> None:
    stock = process((1, 2), {})
    thin = qwen_processor(images=[draw(28, 196)], text=[prompt(1)], return_tensors="pt")
    assert thin["image_grid_thw"].tolist() == [[1, 2, 14]]
    with torch.no_grad():
        expected, expected_thin = qwen(**stock).logits, qwen(**thin).logits
        generated = qwen.generate(**thin, **GREEDY)
        guard_packed_grids(qwen)
        assert torch.equal(qwen(**stock).logits, expected)
        assert torch.equal(qwen(**forward_inputs(qwen, thin)).logits, expected_thin)
    assert qwen.generate(**stock, **GREEDY).shape[0] == 2
    assert torch.equal(generate_packed(qwen, thin, **GREEDY), generated)
    with pytest.raises(ConfigError, match="one block high"):
        qwen(**thin)


def test_inputs_that_do_not_belong_together(qwen2_vl: Qwen2VLForConditionalGeneration, process: Process) -> None:
    inputs = dict(process((1, 1), BUDGET))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"image_num_cells": None}, "give both"),
        ({"image_cells": inputs["image_cells"][1:]}, "image_num_cells of 2"),
        ({"image_grid_thw": inputs["image_grid_thw"][:1]}, "1 grids"),
        ({"image_grid_thw": None}, "together or neither"),
        ({"pixel_values": inputs["pixel_values"][4:]}, "patches in pixel_values"),
        ({"image_cells": None, "image_num_cells": None}, "patches in pixel_values"),
        ({"input_ids": inputs["input_ids"][:1], "attention_mask": inputs["attention_mask"][:1]}, "places for fewer"),
        ({"input_ids": inputs["input_ids"].repeat(2, 1), "attention_mask": None}, "no image"),
        ({"input_ids": inputs["input_ids"][:, :-10], "attention_mask": None}, "do not match"),
        ({"position_ids": inputs["input_ids"]}, "computed here"),
        ({"pixel_values_videos": inputs["pixel_values"]}, "images only"),
        ({"pixel_values": inputs["pixel_values"].numpy()}, "return_tensors"),
    ]
    for change, message in wrong:
        with pytest.raises(ConfigError, match=message):
            forward_inputs(qwen2_vl, {**inputs, **change})
    for call in (guard_packed_grids, lambda model: forward_inputs(model, inputs)):
        with pytest.raises(ConfigError, match="qwen2_5_vl"):
            call(torch.nn.Linear(1, 1))


def test_prompts_that_generation_cannot_go_on_from(qwen2_vl: Qwen2VLForConditionalGeneration, process: Process) -> None:
    with pytest.raises(ConfigError, match="padding_side"):
        generate_packed(qwen2_vl, process((1, 0), BUDGET, "right"), **GREEDY)
    inputs = dict(process((1,), BUDGET))
    end = int((inputs["input_ids"][0] == qwen2_vl.config.image_token_id).nonzero()[-1]) + 1
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key][:, :end]
    with pytest.raises(ConfigError, match="ends with an image"):
        generate_packed(qwen2_vl, inputs, **GREEDY)


def test_cells_of_another_grid_are_refused(qwen2_vl: Any, process: Process) -> None:
    inputs = process((1,), BUDGET)
    for change in (50, -1):
        moved = {**inputs, "image_cells": inputs["image_cells"] + torch.tensor([change, 0, 0])}
        with pytest.raises(ConfigError, match="image 0 are no partition of its 10 × 14 blocks"):
            forward_inputs(qwen2_vl, moved)
    twice = inputs["image_cells"].clone()
    coarse = int(twice[:, 2].argmax())
    fine = (twice[:, 2] == 0).nonzero().flatten()
    twice[fine[0]] = twice[fine[1]]
    assert twice[coarse, 2] > 0
    for cells in (twice, inputs["image_cells"] - torch.tensor([0, 0, 1])):
        with pytest.raises(ConfigError, match="are no partition"):
            forward_inputs(qwen2_vl, {**inputs, "image_cells": cells})
    with pytest.raises(ConfigError, match=r"attention_mask of shape \(1, 1, 4, 4\): expected"):
        forward_inputs(qwen2_vl, {**inputs, "attention_mask": torch.ones(1, 1, 4, 4)})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_a_model_that_peft_wraps(qwen: Any, process: Process) -> None:
    from peft import LoraConfig, get_peft_model

    inputs = process((1,), BUDGET)
    with torch.no_grad():
        expected = qwen(**forward_inputs(qwen, inputs)).logits
    ids = generate_packed(qwen, inputs, **GREEDY)
    wrapped = get_peft_model(qwen, LoraConfig(r=2, target_modules=["q_proj"])).eval()  # starts as the same model
    with torch.no_grad():
        torch.testing.assert_close(wrapped(**forward_inputs(wrapped, inputs)).logits, expected)
    assert torch.equal(generate_packed(wrapped, inputs, **GREEDY), ids)
