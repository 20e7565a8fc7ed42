"""Latencies of one model in several settings, measured in turns: what else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import logging
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from maskcap.models.component_times import ComponentClock, ImageCase, Times, time_image
from maskcap.vision_tokens.latency import COMPONENTS
from maskcap.vision_tokens.settings import VisionTokens

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
_ALL = (*COMPONENTS, "total")


def time_in_turns(
    model: MaskCaptionModel,
    device: torch.device,
    turns: Mapping[Key, tuple[VisionTokens, Sequence[ImageCase]]],
    *,
    rounds: int,
    new_tokens: int,
) -> dict[Key, Times]:
    """Milliseconds of a setting's mean image, medians over `rounds` rounds; a first one is left out.

    turns: the settings, and the images that each is timed on, one at a time. A setting for which memory runs out is
    missing from the answer, with a warning. The model is left as it was set before.
    """
    clock = ComponentClock(model, device)
    before = model.vision_tokens, model.tiling_rule
    rules = {}
    for key, (vision_tokens, _) in turns.items():
        model.set_vision_tokens(vision_tokens)  # once: it logs what it chose
        rules[key] = model.tiling_rule
    found: dict[Key, list[Times]] = {key: [] for key in turns}
    for number in range(rounds + 1):
        for key, (vision_tokens, cases) in turns.items():
            if key not in found:
                continue
            model.vision_tokens, model.tiling_rule = vision_tokens, rules[key]
            lack = ""
            try:
                images = [time_image(clock, _on(case, device), new_tokens) for case in cases]
                if number:  # in the first, kernels are chosen and memory is taken
                    found[key].append({name: statistics.fmean(each[name] for each in images) for name in _ALL})
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                lack = first_line(error)
            if lack:
                log.warning("%s: memory ran out for a single image (%s); its latency is not measured", key, lack)
                del found[key]
                release_memory()
        log.info("latencies: round %d of %d%s", number, rounds, "" if number else " (warm-up, left out)")
    model.vision_tokens, model.tiling_rule = before
    return {key: _medians(times) for key, times in found.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or Python's way to say that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in message or "out of memory" in message)


def first_line(error: BaseException) -> str:
    """What it says, short."""
    return str(error).partition("\n")[0][:200]


def release_memory() -> None:
    """After such an error, once nothing holds it any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _medians(rounds: Sequence[Times]) -> Times:
    return {name: statistics.median(times[name] for times in rounds) for name in _ALL}


def _on(case: ImageCase, device: torch.device) -> ImageCase:
    return ImageCase(case.image1.to(device), case.mask1.to(device), case.size, case.phrase)
