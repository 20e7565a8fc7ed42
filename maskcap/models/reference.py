"""A captioner to stay close to: a frozen copy of what trains, or the same model without its adapters.

Shapes: r regions, A answer tokens, C width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from maskcap.errors import CheckpointError, ConfigError
from maskcap.models.conversation import Tokens
from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.transfer import to_device

ReferenceKind = Literal["copy", "adapters_off"]


class FrozenCopy:
    """The captioner as it is now. Weights that do not train are shared with the model, the others are copied.

    So beside a model with LoRA it costs the adapters and what else trains. It sees the images by itself, unless
    nothing that makes their tokens trains.
    """

    def __init__(self, model: MaskCaptionModel) -> None:
        shared: dict[int, Any] = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
        shared |= {id(buffer): buffer for buffer in model.buffers()}
        shared[id(model.vlm.tokenizer)] = model.vlm.tokenizer  # type: ignore[union-attr]
        left_out = {id(part): None for part in (model.segmenter, model.seg_mlp, model.grounding) if part is not None}
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        self.model: MaskCaptionModel = copy.deepcopy(model, shared | left_out)
        self._copied = [name for name, _ in self.model.named_parameters() if name in trained]
        self.model.eval().requires_grad_(False)
        language = {id(weight) for weight in model.vlm.language_model.parameters()}  # type: ignore[union-attr]
        head = {id(model.vlm.head_weight), id(model.region_marker)}
        seeing = [weight for weight in model.vlm.parameters() if id(weight) not in language | head]
        self.sees_alike = not any(weight.requires_grad for weight in seeing)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The copied weights by name."""
        weights = dict(self.model.named_parameters())
        return {name: weights[name].detach() for name in self._copied}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Raises CheckpointError when it is of a model of which other weights train."""
        weights = self.state_dict()
        if weights.keys() != state.keys():
            other = sorted(weights.keys() ^ state.keys())[0]
            raise CheckpointError(
                f"the checkpoint's frozen captioner and this model's differ ({other} is in one of them only): resume "
                "with the same frozen weights and adapters"
            )
        for name, weight in weights.items():
            weight.copy_(state[name])


@torch.no_grad()
def reference_states(
    reference: FrozenCopy | None,
    model: MaskCaptionModel,
    encoded: EncodedImages,
    mask1: torch.Tensor,
    images: Sequence[int],
    captions: Sequence[Tokens],
    names: Sequence[str] | None = None,
) -> tuple[Any, torch.Tensor]:
    """The reference captioner's VLM, and its states (A, C) that predict the captions' tokens.

    reference: None takes the model without its adapters, with what else trains as it is now. encoded: the regions'
    images, as `EncodedImages.frozen` makes them; mask1 (r, H, W), images: the place of each region's among them. names:
    of the regions, for errors.
    """
    with ExitStack() as stack:
        teacher = model
        if reference is None:
            stack.enter_context(without_adapters(model.vlm))
            stack.enter_context(evaluating(model.vlm))
        else:
            teacher = reference.model
            if not reference.sees_alike:
                encoded = teacher.encode(encoded.images, encoded.sizes, encoded.groups)
        (region_image,) = to_device([torch.tensor(list(images))], mask1.device)
        regions, _ = teacher.region_tokens(encoded.tokens, mask1, region_image)
        questions = teacher.describe_questions(regions, images, [None] * len(images), captions, names=names)
        (reading,) = teacher.read(encoded, [questions])
        return teacher.vlm, reading.answer_states


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while (no dropout); each part is then as it was."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def adapters_of(module: nn.Module) -> list[Any]:
    """peft's layers. Raises ConfigError when there are none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
    if not layers:
        raise ConfigError(
            "loops.cycle.reference=adapters_off, but the model has no adapters: give model.lora, or use reference=copy"
        )
    return layers


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """peft's adapters switched off for a while. Raises ConfigError when there are none."""
    layers = adapters_of(module)
    training = [(weight, weight.requires_grad) for layer in layers for weight in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for weight, trains in training:
            weight.requires_grad_(trains)
