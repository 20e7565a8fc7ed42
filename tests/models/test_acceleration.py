"""Compiled and checkpointed parts: the same numbers, the same names, fewer activations."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.acceleration import PARTS, _compile, checkpoint_activations, compile_parts
from maskcap.models.mask_caption import MaskCaptionModel

# torch's compiler, of its own code
torch_warns = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning", "ignore:The .grad attribute of a Tensor"
)
LOOPS: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask()}


def step(model: MaskCaptionModel, batch: Batch) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
    """Losses, gradients, and the bytes of what the forward kept for the backward."""
    model.zero_grad()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = run_loops(model, LOOPS, batch, StepContext(model.encode(batch.image1)))
    torch.stack([output.loss for output in outputs.values()]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: output.loss.item() for name, output in outputs.items()}, gradients, sum(kept.values())


def assert_same(one: tuple[Any, Any, int], other: tuple[Any, Any, int]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5) and one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("parts", [[name] for name in PARTS] + [list(PARTS)])
def test_checkpointing_keeps_less_and_changes_no_number(
    parts: list[str], tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    plain, names = step(tiny_model, tiny_batch), list(tiny_model.state_dict())
    checkpoint_activations(tiny_model, parts)
    checkpointed = step(tiny_model, tiny_batch)
    assert_same(plain, checkpointed)
    assert checkpointed[2] < plain[2] and list(tiny_model.state_dict()) == names


@torch_warns
@pytest.mark.parametrize("faster", ["checkpointed", "compiled"])
def test_qwens_packed_patches_change_no_number_either(
    faster: str, patches_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    plain = step(patches_model, tiny_batch)
    if faster == "checkpointed":
        checkpoint_activations(patches_model, PARTS)
    else:
        compile_parts(patches_model, backend="eager")
    found = step(patches_model, tiny_batch)
    assert_same(plain, found)
    assert faster == "compiled" or found[2] < plain[2]


def test_checkpointing_with_lora_and_frozen_embeddings(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    from maskcap.models.adapters import LoRA, add_lora

    torch.manual_seed(0)
    tiny_model.vlm.model.requires_grad_(False)
    add_lora(tiny_model.vlm.language_model, LoRA(rank=2, alpha=2, dropout=0.0, targets=("q_proj", "v_proj")))
    with torch.no_grad():  # both matrices, so that both have a gradient
        for name, weight in tiny_model.vlm.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    plain = step(tiny_model, tiny_batch)
    assert any("lora_A" in name for name in plain[1])
    checkpoint_activations(tiny_model, ["language_model"])
    assert_same(plain, step(tiny_model, tiny_batch))


def test_other_names_are_told(tiny_model: MaskCaptionModel) -> None:
    with pytest.raises(ConfigError, match="no part 'vit'; there are: vision_tower, language_model, segmenter"):
        checkpoint_activations(tiny_model, ["vit"])


@torch_warns
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_change_no_number(checkpointing: bool, tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    plain, names = step(tiny_model, tiny_batch), list(tiny_model.state_dict())
    if checkpointing:
        checkpoint_activations(tiny_model, PARTS)
    compile_parts(tiny_model, backend="eager")
    counters.clear()
    assert_same(plain, step(tiny_model, tiny_batch))
    assert counters["stats"]["unique_graphs"] == 4 and not counters["graph_break"]  # each part in one piece
    assert list(tiny_model.state_dict()) == names
    counters.clear()
    tiny_model.eval()
    assert len(tiny_model.describe(tiny_batch.image1, tiny_batch.mask1, tiny_batch.region_image)) == 3
    assert not counters["stats"]  # nothing is compiled for evaluation


@torch_warns
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_a_block(tiny_model: MaskCaptionModel) -> None:
    block = tiny_model.vlm.model.model.vision_tower.encoder.layer[0]
    plain = copy.deepcopy(block)
    _compile([block], "block", "inductor")
    states = torch.randn(1, 17, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(states), plain(states), rtol=1e-4, atol=1e-5)
