"""A training step asks the device for nothing but the regions' masks.

On a CPU nothing waits, so the operations that would wait for a GPU are looked for: whatever reads a number, or gives a
tensor whose shape depends on numbers. Copies to the host go through `to_host`, which is counted. (`packing: none` waits
twice more: the library looks whether its padding mask is all ones.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models import region_prompt
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.vlm import patch_pixels
from maskcap.models.vlm.interface import Generated

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero"}


class Watch(TorchDispatchMode):
    """Notes operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or by_mask or func is torch.ops.aten.repeat_interleave.Tensor:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("points", [None, 64])
def test_one_step_waits_once(
    points: int | None, tiny_model: MaskCaptionModel, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    to_host = region_prompt.to_host
    monkeypatch.setattr(region_prompt, "to_host", lambda tensor: copies.append(tensor.shape) or to_host(tensor))
    loops: dict[str, Loop] = {
        "m2c": MaskToCaption(),
        "c2m": CaptionToMask(sampled_points=points),
        "p2m": PromptToMask(sampled_points=points),
    }
    optimizer = torch.optim.AdamW(tiny_model.parameters(), fused=True)
    batch = tiny_batch.to("cpu")
    generator = torch.Generator().manual_seed(0)
    coin = torch.Generator().manual_seed(0)  # of the host: curriculum and prompts are decided there
    context = StepContext(tiny_model.encode(batch.image1), generator=coin, noise_generator=generator)
    monkeypatch.setattr(StepContext, "keep_image", lambda self: True)
    with Watch() as watch:
        outputs = run_loops(tiny_model, loops, batch, context)
        torch.stack([output.loss for output in outputs.values()]).sum().backward()
        optimizer.step()
    allowed = [name for name in watch.found if "_local_scalar_dense" in name]  # prompt → mask's coin, on the host
    assert watch.found == allowed[:1] and len(copies) == 1


@pytest.mark.parametrize("reference", [None, "copy"])
def test_the_cycle_waits_for_its_rollout_and_once_for_each_captioner(
    reference: Literal["copy"] | None,
    tiny_model: MaskCaptionModel,
    tiny_batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rollout itself waits at every token; everything around it, noise and relaxation too, does not."""
    copies = []
    to_host = region_prompt.to_host
    monkeypatch.setattr(region_prompt, "to_host", lambda tensor: copies.append(tensor.shape) or to_host(tensor))
    ids = tiny_model.vlm.tokenizer(["red cross<|im_end|>", "a<|im_end|>"], add_special_tokens=False).input_ids
    said = Generated(["red cross", "a"], [False, False], ids)
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: said)
    blank: list[str | None] = [None, None, "small blue cross"]
    batch = replace(tiny_batch, caption=blank, phrase=blank, host_region_image=(0, 0, 1))
    loop = Cycle(reference=reference, length_weight=1.0, repetition_weight=1.0, top_k=5)
    monkeypatch.setattr(StepContext, "keep_image", lambda self: True)
    context = StepContext(tiny_model.encode(batch.image1), generator=torch.Generator().manual_seed(0))
    run_loops(tiny_model, {"cycle": loop}, batch, context)  # what is done once a run: copy, vocabulary
    copies.clear()
    context = StepContext(tiny_model.encode(batch.image1), generator=torch.Generator().manual_seed(0))
    with Watch() as watch:
        run_loops(tiny_model, {"cycle": loop}, batch, context)["cycle"].loss.backward()
    allowed = [name for name in watch.found if "_local_scalar_dense" in name]  # the noise's seed, on the host
    assert watch.found == allowed[:1] and len(copies) == (2 if reference else 1)


def test_the_watch_sees_what_waits() -> None:
    numbers = torch.arange(4.0)
    with Watch() as watch:
        numbers.sum().item()
        numbers[numbers > 1]
        torch.nonzero(numbers)
    assert len(watch.found) >= 3


def test_chosen_patches_wait_once_more(
    patches_model: MaskCaptionModel, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    for module in (region_prompt, patch_pixels):
        to_host = module.to_host
        monkeypatch.setattr(module, "to_host", lambda tensor, to=to_host: copies.append(tensor.shape) or to(tensor))
    loops: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask()}
    monkeypatch.setattr(StepContext, "keep_image", lambda self: True)
    with Watch() as watch:
        outputs = run_loops(patches_model, loops, tiny_batch, StepContext(patches_model.encode(tiny_batch.image1)))
        torch.stack([output.loss for output in outputs.values()]).sum().backward()
    assert not watch.found and len(copies) == 2
    assert copies[0] == (2 * 4 * 4,)  # the levels of all images' blocks, in one copy
