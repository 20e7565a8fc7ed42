"""torch.compile and activation checkpointing of the parts that a step runs through.

Parameter names and state dicts stay as they are, and what lies between the parts (resizing, packing, selecting
regions) stays as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel

PARTS = ("vision_tower", "language_model", "segmenter")


def checkpoint_activations(model: MaskCaptionModel, parts: Sequence[str]) -> None:
    """The blocks of these `parts` keep their inputs alone in training and compute the rest again in the backward.

    parts: of PARTS; `segmenter` is SAM2's encoder and decoder (`segmenter.decode_chunk` bounds the decoder's memory
    further). Non-reentrant, so that frozen embeddings need no care. Raises ConfigError for another name, and for a part
    that has no such blocks.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ConfigError(
            f"mask_caption.activation_checkpointing: no part {unknown[0]!r}; there are: {', '.join(PARTS)}"
        )
    for name in parts:
        for block in _blocks(_part(model, name), name):
            block.gradient_checkpointing = True  # type: ignore[assignment]
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


def compile_parts(model: MaskCaptionModel, backend: str = "inductor") -> None:
    """torch.compile, in place, of the vision tower, the language model's blocks (one code serves them all), SAM2's
    backbone and its mask decoder. In training only, and never with a cache, which grows at each token.

    The first steps compile, which takes minutes on large models; inductor needs a C++ compiler on a CPU, Triton on a
    GPU. backend: as torch.compile's.
    """
    from transformers.utils.output_capturing import maybe_install_capturing_hooks

    sam: Any = model.segmenter.model
    tower: Any = _part(model, "vision_tower")
    # whole, and with the hooks by which the library collects hidden states: from its blocks on they cannot be traced,
    # nor can their installation, which would come with the first image
    maybe_install_capturing_hooks(tower)
    _compile([tower], "vision_tower", backend)
    # rows and their length differ from step to step
    _compile(_blocks(_part(model, "language_model"), "language_model"), "language_block", backend, dynamic=True)
    # whole: its blocks are of more kinds than torch recompiles for; static: sizes of windows as symbols take minutes
    _compile([sam.vision_encoder.backbone], "segmenter_backbone", backend, dynamic=False)
    _compile([sam.mask_decoder], "mask_decoder", backend)


def _compile(modules: Sequence[nn.Module], name: str, backend: str, dynamic: bool | None = None) -> None:
    """One compiled function for modules of one kind, with a code and a name of its own.

    torch counts recompilations by code object and gives up after eight, and it remembers which sizes vary by the code's
    file, line and name; `Module.compile` shares one code among all of the library's blocks.
    """
    function = FunctionType(_call.__code__.replace(co_name=f"_call_{name}"), globals())
    compiled = torch.compile(function, backend=backend, dynamic=dynamic)
    for module in modules:
        module._compiled_call_impl = partial(_in_training, compiled, module)  # type: ignore[assignment]


def _call(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    return module._call_impl(*inputs, **options)


def _in_training(compiled: Callable[..., Any], module: nn.Module, *inputs: Any, **options: Any) -> Any:
    steady = module.training and options.get("past_key_values") is None  # a cache grows at each token
    return (compiled if steady else _call)(module, *inputs, **options)


def _part(model: MaskCaptionModel, name: str) -> nn.Module:
    vlm: Any = model.vlm
    if name == "language_model":
        return vlm.language_model
    if name == "vision_tower":
        return vlm.model.get_encoder(modality="image")
    return model.segmenter.model


def _blocks(part: nn.Module, name: str) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[nn.Module] = [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ConfigError(f"{type(part).__name__} ({name}) has no blocks to compile or to checkpoint")
    return blocks
