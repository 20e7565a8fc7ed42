"""The clock on real tiny models: every component is seen, their sum is the whole, and the model is left as it was."""

from __future__ import annotations

import time

import pytest
import torch

from maskcap.models.component_times import ComponentClock, ImageCase, device_name, model_name, time_image
from maskcap.models.latency_turns import is_out_of_memory, time_in_turns
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.packing import Packing
from maskcap.vision_tokens.latency import COMPONENTS
from maskcap.vision_tokens.settings import SingleView, Tiling

CPU = torch.device("cpu")


@pytest.fixture
def case() -> ImageCase:
    mask1 = torch.zeros(1, 64, 64)
    mask1[:, 8:40, 8:40] = 1
    image1 = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return ImageCase(image1, mask1, (64, 64), "large red circle")


def test_components_add_up_to_about_the_whole(any_model: MaskCaptionModel, case: ImageCase):
    clock = ComponentClock(any_model.eval(), CPU)
    time_image(clock, case, 8)
    began = time.perf_counter()
    times = time_image(clock, case, 8)
    took = (time.perf_counter() - began) * 1000
    assert set(times) == {*COMPONENTS, "total"}
    in_the_tower = {"projector"} if any_model.vlm.mrope else set()  # Qwen2-VL's merger
    assert {name for name, ms in times.items() if ms <= 0} == in_the_tower
    parts = sum(times[name] for name in COMPONENTS) + 6 * times["decode"]  # 7 tokens after the first
    assert 0.3 * times["total"] < parts < times["total"] < took


def test_slow_parts_are_found_where_they_are(tiled_model: MaskCaptionModel, case: ImageCase):
    tiled_model.eval()
    clock = ComponentClock(tiled_model, CPU)
    before = time_image(clock, case, 4)
    tower = tiled_model.vlm.model.get_encoder(modality="image")  # type: ignore[union-attr,operator]
    hooks = [
        tower.register_forward_pre_hook(lambda *_: time.sleep(0.1), prepend=False),
        tiled_model.segmenter.model.vision_encoder.register_forward_hook(lambda *_: time.sleep(0.2)),
    ]
    slow = {name: ms - before[name] for name, ms in time_image(clock, case, 4).items()}
    for hook in hooks:
        hook.remove()
    # a hook that is there before the clock's runs before it: outside the tower, inside what calls it
    assert slow["sam_encode"] > 190 and slow["vit"] + slow["projector"] > 90 and slow["total"] > 280
    others = max(slow[name] for name in ("preprocess", "prefill", "decode", "sam_decode"))
    assert others < slow["vit"] + slow["projector"] < slow["sam_encode"] < slow["total"]


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_as_many_tokens_as_asked_for_and_nothing_stays(
    tiled_model: MaskCaptionModel, case: ImageCase, packing: Packing
):
    tiled_model.eval().packing = packing
    calls: list[int] = []
    hook = tiled_model.vlm.language_model.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    time_image(ComponentClock(tiled_model, CPU), case, 7)
    hook.remove()
    assert len(calls) == 7 + 1 + 1  # generated, the phrase, the image's prefix (none: for the grounding map alone)
    assert tiled_model.max_new_tokens == 4
    for part in (tiled_model, tiled_model.vlm, tiled_model.segmenter):
        assert not {"encode_image", "encode_views", "generate", "encode", "decode"} & set(vars(part))
    assert not tiled_model.vlm.language_model._forward_hooks  # type: ignore[union-attr]


def test_settings_take_turns_and_one_without_memory_is_left_out(
    tiled_model: MaskCaptionModel, case: ImageCase, caplog: pytest.LogCaptureFixture
):
    tiled_model.eval()
    before = tiled_model.vision_tokens
    seen: list[int] = []

    def encoder(module, inputs, options):
        views = options["pixel_values"] if "pixel_values" in options else inputs[0]
        seen.append(len(views))
        if len(views) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    tower = tiled_model.vlm.model.get_encoder(modality="image")  # type: ignore[union-attr,operator]
    tower.register_forward_pre_hook(encoder, with_kwargs=True)
    turns = {n: (Tiling(exact_crops=n, margins=(2, 2)), [case]) for n in (1, 2, 4)} | {0: (SingleView(), [case])}
    times = time_in_turns(tiled_model, CPU, turns, rounds=2, new_tokens=2)
    assert set(times) == {0, 1, 2} and seen == [2, 3, 5, 1, 2, 3, 1, 2, 3, 1]
    assert "4: memory ran out for a single image (CUDA out of memory" in caplog.text
    assert tiled_model.vision_tokens is before


def test_other_errors_pass_through(tiled_model: MaskCaptionModel, case: ImageCase):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    hook = tiled_model.vlm.language_model.register_forward_pre_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        time_in_turns(tiled_model, CPU, {1: (SingleView(), [case])}, rounds=1, new_tokens=2)
    hook.remove()
    assert "generate" not in vars(tiled_model.vlm)


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes")) and not is_out_of_memory(ValueError("out of memory"))


def test_names_tell_models_and_devices_apart(tiny_model: MaskCaptionModel):
    assert model_name(tiny_model).startswith("InternVL 32 px (vision 0.0") and "qwen2 1 × 32" in model_name(tiny_model)
    assert device_name(CPU).startswith("CPU ") and device_name(CPU).endswith("thread")
