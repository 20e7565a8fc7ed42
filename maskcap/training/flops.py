"""The FLOPs of a training step: what the model asks for, not what a machine happens to execute.

"Model FLOPs" of the model FLOPs utilisation in PaLM (Chowdhery et al. 2022, appendix B): a multiply and an add are two;
only matrix products and convolutions count (no norms, activations, softmax, resizing, losses); padding and activation
checkpointing's second forward do not count. The step of one `Work` costs

    vision tower + projector   f_vision · vlm_images
    language model, linear     2 · (weights of its linear layers) · tokens
    language model, attention  4 · layers · heads · head_dim · pairs
    head                       2 · V · C · answers                      (the embedding is a lookup and costs nothing)
    SAM2's image encoder       f_encoder · sam_images
    [SEG] MLP + mask decoder   f_decoder · masks

forward, and backward the same once for each operand of a product that needs a gradient: + 1 × for weights that train
(of a layer with LoRA: the two small matrices), + 1 × where the gradient flows on to something that trains before it,
nothing where neither is so. With everything trained that is PaLM's 6N + 12·layers·heads·head_dim·length a token,
but for pairs that the mask forbids.

f_vision, f_encoder, f_decoder come from one forward of the real code on meta tensors, which have shapes and no numbers.
The grounding map is left out. With padding and forbidden pairs added, the count for a step of the demo's models (two
images of three regions) is 99.1 % of what torch's FlopCounterMode finds in it, 99.6 % with `packing: none`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.work import Work

_aten = torch.ops.aten
# Every product that a forward runs into (attention is broken up by SDPBackend.MATH), and its two operands' places.
_OPERANDS = {_aten.mm: (0, 1), _aten.addmm: (1, 2), _aten.bmm: (0, 1), _aten.baddbmm: (1, 2), _aten.convolution: (0, 1)}


@dataclass(frozen=True)
class Flops:
    """FLOPs of the forward and of the backward, 0 or more."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Of both."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Flops:
        return Flops(round(self.forward * times), round(self.backward * times))


@dataclass(frozen=True)
class UnitFlops:
    """FLOPs of one of each thing that `Work` counts: an image through either encoder, a token, a pair, an answer's
    token, a mask."""

    vlm_image: Flops
    sam_image: Flops
    token: Flops
    pair: Flops
    answer: Flops
    mask: Flops


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of a step by part; see the module's formula."""

    vision: Flops
    language_linear: Flops
    language_attention: Flops
    head: Flops
    segmenter_encoder: Flops
    mask_decoder: Flops

    @property
    def total(self) -> int:
        """Forward and backward of all parts."""
        return sum(part.total for part in vars(self).values())


def step_flops(units: UnitFlops, work: Work) -> StepFlops:
    """What `work` costs a model of these `units`."""
    return StepFlops(
        vision=units.vlm_image * work.vlm_images,
        language_linear=units.token * work.tokens,
        language_attention=units.pair * work.pairs,
        head=units.answer * work.answers,
        segmenter_encoder=units.sam_image * work.sam_images,
        mask_decoder=units.mask * work.masks,
    )


def unit_flops(model: MaskCaptionModel) -> UnitFlops:
    """Measures `model` as it is frozen and adapted now; nothing real is computed and nothing in the model changes.

    Call it before a strategy shards the parameters. Vision attention has to run as SDPA or eager. Raises whatever the
    model's own code raises on meta tensors.
    """
    vlm: Any = model.vlm
    vision, tokens = count_flops(vlm, lambda: vlm.encode_image(_image(vlm.image_size)))
    embeddings_train = vlm.language_model.get_input_embeddings().weight.requires_grad
    inputs_train = tokens.features.requires_grad or embeddings_train or model.region_marker.requires_grad
    token, pair = language_flops(vlm.language_model, inputs_train)
    states_train = inputs_train or _trains(vlm.language_model)
    encoder, features = count_flops(model.segmenter, lambda: model.segmenter.encode(_image(model.segmenter.image_size)))

    def decode() -> torch.Tensor:
        """One region's mask, on the meta device."""
        state = torch.empty(1, vlm.hidden_size, device="meta", requires_grad=states_train)
        dense = None
        if model.grounding is not None:
            dense = torch.empty(1, *tokens.grid, device="meta", requires_grad=states_train or _trains(model.grounding))
        of_image = torch.zeros(1, dtype=torch.int64, device="meta")
        return model.segmenter.decode(features, of_image, model.seg_mlp(state)[:, None], dense)

    mask, _ = count_flops(model, decode)
    return UnitFlops(vision, encoder, token, pair, product_flops(vlm.head_weight, states_train), mask)


def product_flops(weight: torch.Tensor, inputs_train: bool) -> Flops:
    """Of one vector through a weight matrix; `inputs_train`: something before it needs a gradient."""
    forward = 2 * weight.numel()
    return Flops(forward, forward * (int(weight.requires_grad) + int(inputs_train)))


def language_flops(language_model: Any, inputs_train: bool) -> tuple[Flops, Flops]:
    """Of a token through all linear layers, and of a (query, key) pair through the attention of all layers.

    language_model: a Hugging Face decoder (`config`, `layers`). inputs_train: a gradient must reach its inputs.
    Otherwise the gradient ends at the first layer that trains. Modules count as called in the order in which they are
    registered, which is right but within that one layer.
    """
    config = language_model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token, pair, flows = Flops(), Flops(), inputs_train
    for layer in language_model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                token += product_flops(module.weight, flows)
            flows = flows or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        # query · key and share · value, 2 · heads · head_dim each; their operands are activations, all or none needed
        forward = 4 * config.num_attention_heads * head_dim
        pair += Flops(forward, 2 * forward if flows else 0)
    return token, pair


def count_flops(module: nn.Module, call: Callable[[], Any]) -> tuple[Flops, Any]:
    """FLOPs of `call()`, a forward of `module` on meta tensors, and its output.

    While it runs, the module's parameters and buffers are replaced by float32 meta tensors that need gradients where
    the real ones do. Meta rather than fake tensors: Hugging Face caches positional encodings by device in tables that
    all models share, and a fake tensor of the real device would stay in them.
    """
    counter = _Counter()
    stand_ins = {
        f"module.{name}": torch.empty_like(tensor, dtype=_shape_dtype(tensor), device="meta").requires_grad_(
            tensor.requires_grad
        )
        for named in (module.named_parameters(), module.named_buffers())
        for name, tensor in named
    }
    # What is compiled runs as written: meta tensors would compile it anew.
    with counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        output = torch.func.functional_call(_Caller(module, call), stand_ins)
    return Flops(counter.forward, counter.backward), output


class _Caller(nn.Module):
    """Makes any call on a module one that `functional_call` understands."""

    def __init__(self, module: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self) -> Any:
        """What the call gives."""
        return self.call()


class _Counter(TorchDispatchMode):
    """Adds up the products that run under it, and those that their backward would run."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if (operands := _OPERANDS.get(func.overloadpacket)) is not None:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=output)
            self.forward += flops
            self.backward += flops * sum(args[place].requires_grad for place in operands)
        return output


def _image(side: int) -> torch.Tensor:
    return torch.empty(1, 3, side, side, device="meta")


def _shape_dtype(tensor: torch.Tensor) -> torch.dtype:
    """One float type for all: autocast, which brings bfloat16 and float32 weights together, has no meta device."""
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
