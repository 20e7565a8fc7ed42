"""How long each part of the model takes for an image, by timing the model's own calls.

preprocess: `encode_image` without the views' encoding: resizing, cutting, choosing patches, gathering the kept tokens
    (reading a file and making its sample are the data loader's). vit: the vision tower, of Qwen2-VL with its merger.
    projector: `encode_views` without the tower.
prefill: all that the language model reads: the image's prefix and the question before the first new token, and the
    sequences of phrases. decode: of each new token after the first, with the head and the search.
sam_encode, sam_decode: the segmenter's `encode` (its resize included) and `decode`.
total: from end to end, with what is in none of them (regions' tokens, laying out sequences, grounding maps).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskcap.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel

Times = dict[str, float]  # milliseconds of latency.COMPONENTS and of "total"

_CALLS = {  # what is timed whole: (part of the model, method)
    "encode_image": ("", "encode_image"),
    "encode_views": ("vlm", "encode_views"),
    "read_prefix": ("vlm", "read_prefix"),
    "hidden_states": ("vlm", "hidden_states"),
    "sam_encode": ("segmenter", "encode"),
    "sam_decode": ("segmenter", "decode"),
}


@dataclass(frozen=True)
class ImageCase:
    """What is timed: one image (1, 3, H, W) normalised, one region's mask (1, H, W), the image's own size, a phrase."""

    image1: torch.Tensor
    mask1: torch.Tensor
    size: tuple[int, int]
    phrase: str


class ComponentClock:
    """Times the parts of a model while `running`; on CUDA by events, so that nothing waits before `read`."""

    def __init__(self, model: MaskCaptionModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self._spans: list[tuple[str, Stopwatch]] = []
        self._steps = 0  # of the language model after the first, in all generations
        self._generating: Stopwatch | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time every call inside."""
        vlm: Any = self.model.vlm
        tower = vlm.model.get_encoder(modality="image")
        parts: dict[str, Any] = {"": self.model, "vlm": vlm, "segmenter": self.model.segmenter}
        calls = [(parts[part], method, self._timed(name)) for name, (part, method) in _CALLS.items()]
        calls.append((vlm, "generate", self._timed_generation))
        started: list[Stopwatch] = []
        hooks = [
            tower.register_forward_pre_hook(lambda *_: started.append(self._begin("vit"))),
            tower.register_forward_hook(lambda *_: started.pop().mark()),
            vlm.language_model.register_forward_hook(lambda *_: self._language_model_ran()),
        ]
        try:
            for owner, method, wrap in calls:
                vars(owner)[method] = wrap(getattr(owner, method))  # on the object: the class stays as it is
            yield
        finally:
            for owner, method, _ in calls:
                vars(owner).pop(method, None)
            for hook in hooks:
                hook.remove()

    def read(self) -> Times:
        """Milliseconds of each component since the start, waiting for the device; decode: of a token, 0 without one."""
        sums: dict[str, float] = {}
        for name, watch in self._spans:
            sums[name] = sums.get(name, 0.0) + watch.read() * 1000
        whole, views, vit = (sums.get(name, 0.0) for name in ("encode_image", "encode_views", "vit"))
        return {
            "preprocess": max(0.0, whole - max(views, vit)),
            "vit": vit,
            "projector": max(0.0, views - vit),
            "prefill": sum(sums.get(name, 0.0) for name in ("read_prefix", "hidden_states", "first")),
            "decode": sums.get("further", 0.0) / self._steps if self._steps else 0.0,
            "sam_encode": sums.get("sam_encode", 0.0),
            "sam_decode": sums.get("sam_decode", 0.0),
        }

    def _begin(self, name: str) -> Stopwatch:
        watch = Stopwatch(self.device, time.perf_counter)
        watch.start()
        self._spans.append((name, watch))
        return watch

    def _timed(self, name: str) -> Callable[[Any], Any]:
        def wrap(method: Any) -> Any:
            """The method with a watch around it."""

            def call(*inputs: Any, **options: Any) -> Any:
                """Timed."""
                watch = self._begin(name)
                out = method(*inputs, **options)
                watch.mark()
                return out

            return call

        return wrap

    def _timed_generation(self, generate: Any) -> Any:
        """Up to the language model's first reading, and from there on."""

        def call(*inputs: Any, **options: Any) -> Any:
            """Generation, whose first token and later steps are timed apart."""
            self._generating, before = self._begin("first"), self._steps
            out = generate(*inputs, **options)
            if self._steps > before:
                self._generating.mark()
            self._generating = None
            return out

        return call

    def _language_model_ran(self) -> None:
        if self._generating is None:
            return
        if self._spans[-1] == ("first", self._generating):
            self._generating.mark()
            self._generating = self._begin("further")
        else:
            self._steps += 1


def time_image(clock: ComponentClock, case: ImageCase, new_tokens: int) -> Times:
    """Caption the region in exactly `new_tokens` tokens, at least 2, and segment the phrase: its milliseconds."""
    model = clock.model
    region_image = torch.zeros(1, dtype=torch.int64, device=case.image1.device)
    clock.forget()
    whole = Stopwatch(clock.device, time.perf_counter)
    with torch.no_grad(), clock.running(), _without_end(model, max(2, new_tokens)):
        whole.start()
        encoded = model.encode(case.image1, [case.size])
        model.generate_captions(encoded, case.mask1, region_image)
        model.segment(case.image1, [case.phrase], region_image, encoded)
        whole.mark()
    return clock.read() | {"total": whole.read() * 1000}


def model_name(model: MaskCaptionModel) -> str:
    """What a latency depends on in a model, `InternVL 448 px (vision …, qwen2 24 × 896), SAM2 1024 px …`."""
    vlm: Any = model.vlm
    config, segmenter = vlm.language_model.config, model.segmenter
    return (
        f"{type(vlm).__name__} {vlm.image_size} px (vision {_millions(vlm.model.get_encoder(modality='image'))}, "
        f"{config.model_type} {config.num_hidden_layers} × {config.hidden_size}), "
        f"SAM2 {segmenter.image_size} px ({_millions(segmenter.model)})"
    )


def device_name(device: torch.device) -> str:
    """Of the accelerator; for a CPU its architecture and the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    import platform

    threads = torch.get_num_threads()
    return f"CPU {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def _millions(module: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.2f} M"


@contextmanager
def _without_end(model: MaskCaptionModel, new_tokens: int) -> Iterator[None]:
    """Generation gives exactly so many tokens: the end of the turn is never the likeliest."""
    vlm: Any = model.vlm
    end = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.end)

    def forbid(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        """Logits without the end token."""
        forbidden = logits.clone()
        forbidden[..., end] = -torch.inf
        return forbidden

    before, model.max_new_tokens = model.max_new_tokens, new_tokens
    hook = vlm.model.get_output_embeddings().register_forward_hook(forbid)
    try:
        yield
    finally:
        model.max_new_tokens = before
        hook.remove()
