"""Images of adaptive patches through Hugging Face's own Qwen2-VL and Qwen2.5-VL, unchanged.

An image of K cells goes in as a grid of 1 × K merge blocks, for its lengths, with its true positions beside it. Without
them the model would run and take the cells for a strip: `guard_packed_grids` makes that an error.

Shapes: N rows, L their length, n images, K cells of an image, ΣK of all of them, m = merge_size, P values a patch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from maskcap.errors import ConfigError
from maskcap.models.vlm.packed_images import packed_images, text_positions, tower_inputs

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")
TOWER_INPUTS = ("pixel_values", "image_grid_thw", "image_position_ids", "image_window_index", "image_cu_window_seqlens")
COMPUTED = ("position_ids", "image_position_ids", "image_window_index", "image_cu_window_seqlens")
VIDEOS = ("pixel_values_videos", "video_grid_thw")
INSTEAD = "call maskcap.models.vlm.packed.forward_inputs or generate_packed, which give the cells' true positions"


def forward_inputs(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The processor's output → keyword arguments of `model.forward`, selection on or off.

    model: stock `Qwen2VLForConditionalGeneration` or `Qwen2_5_VLForConditionalGeneration`, also as peft wraps them.
    inputs: tensors, on any device: input_ids (N, L), attention_mask (N, L; all ones where there is none), pixel_values
    [ΣK · m², P], image_grid_thw (n, 3), with selection on image_cells (ΣK, 3) and image_num_cells (n); more goes on.
    Rows may be padded on either side, hold several images or none. Without any image the inputs come back as they are.

    Returned beside them: image_grid_thw (n, 3) of 1 × K blocks, image_position_ids float32 (ΣK · m², 2) in patches,
    position_ids int64 (3, N, L), 0 for padding, and for Qwen2.5-VL its attention windows.

    Raises ConfigError for videos, another kind of model, inputs that do not belong together, and those computed here.
    The model is guarded from then on (`guard_packed_grids`): what is returned here is an error without its positions.
    """
    given = dict(inputs)
    _check_inputs(model, given)
    guard_packed_grids(model)
    cells, counts = given.pop("image_cells", None), given.pop("image_num_cells", None)
    if given.get("pixel_values") is None:
        return given
    for name in ("input_ids", "attention_mask"):
        if given.get(name) is not None and given[name].ndim != 2:
            raise ConfigError(f"{name} of shape {tuple(given[name].shape)}: expected (rows, length)")
    given.pop("mm_token_type_ids", None)  # the stock model finds positions with it; they are given here
    merge = int(model.config.vision_config.spatial_merge_size)
    images = packed_images(given["image_grid_thw"], cells, counts, merge)
    blocks, patches = sum(len(image.cells) for image in images), given["pixel_values"]
    if len(patches) != blocks * merge**2:
        raise ConfigError(f"{len(patches)} patches in pixel_values for {blocks} cells of {merge**2} patches")
    mask, slot = given.get("attention_mask"), model.config.image_token_id
    given["position_ids"] = text_positions(images, given["input_ids"], mask, slot)
    of_tower = tower_inputs([image.cells for image in images], model.config.vision_config)
    given.update((name, tensor.to(patches.device)) for name, tensor in of_tower.items())
    return given


@torch.no_grad()
def generate_packed(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    """`model.generate` for the processor's output, selection on or off: prompt and new ids, (N, L + new).

    model, inputs: as in `forward_inputs`. options: as `generate` takes them: beams, sampling, limits, ….
    The model's `rope_deltas` are afterwards what they were: later stock calls see nothing of this one.

    Raises ConfigError as `forward_inputs`, and for rows padded on the right or a prompt that ends with an image.
    """
    given = forward_inputs(model, inputs)
    _check_prompt(model.config.image_token_id, given)
    inner = _unwrapped(model).model
    deltas = inner.rope_deltas
    try:
        if given.get("pixel_values") is None:
            return model.generate(**given, **options)
        tower = {name: given.pop(name) for name in TOWER_INPUTS if name in given}
        # new at each call: generate multiplies the features for its beams where they lie
        features = model.get_image_features(**tower, return_dict=True)
        given.setdefault("attention_mask", torch.ones_like(given["input_ids"]))
        return model.generate(**given, mm_encoder_outputs={"image": features}, **options)
    finally:
        inner.rope_deltas = deltas


def guard_packed_grids(model: Any) -> None:
    """Make a stock Qwen2-VL or Qwen2.5-VL refuse what it would read wrongly; once is enough, more does nothing.

    From then on a call of the model, or of its vision tower alone, raises ConfigError for an image grid one block high
    without explicit positions, and for the processor's `image_cells`. A true image of that shape still works through
    `forward_inputs` and `generate_packed`. What no hook can see: `generate` with features computed before and no
    position_ids. Raises ConfigError for another kind of model.
    """
    _check_model(model)
    whole = _unwrapped(model)
    for module, guard in ((whole, _guard_model), (whole.model, _guard_model), (whole.model.visual, _guard_tower)):
        if guard not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(guard, with_kwargs=True)


def _guard_model(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = _named(module, args, kwargs)
    if given.get("image_cells") is not None or given.get("image_num_cells") is not None:
        raise ConfigError(f"image_cells: the stock model cannot read them; {INSTEAD}")
    explicit = given.get("image_position_ids") is not None and given.get("position_ids") is not None
    if not explicit:
        _refuse_strips(given.get("image_grid_thw"), module.config.vision_config.spatial_merge_size)


def _guard_tower(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = _named(module, args, kwargs)
    needed = ["position_ids"] + (["window_index", "cu_window_seqlens"] if hasattr(module, "window_size") else [])
    if any(given.get(name) is None for name in needed):
        _refuse_strips(given.get("grid_thw"), module.spatial_merge_size)


def _named(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(module.forward).parameters)[: len(args)] if args else []
    return {**dict(zip(names, args, strict=True)), **kwargs}


def _refuse_strips(grid_thw: torch.Tensor | None, merge: int) -> None:
    for time, height, width in [] if grid_thw is None else grid_thw.tolist():
        if time == 1 and height == merge and width >= merge:
            raise ConfigError(
                f"image grid {[time, height, width]} without explicit positions: it is one block high, as a packed "
                f"image is, and the stock model would take its cells for a strip; {INSTEAD}"
            )


def _unwrapped(model: Any) -> Any:
    """The library's own model, of one that peft wraps."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check_model(model: Any) -> None:
    found = getattr(getattr(model, "config", None), "model_type", None)
    if found not in MODEL_TYPES:
        raise ConfigError(f"a {type(model).__name__} ({found}): packed images need one of {', '.join(MODEL_TYPES)}")


def _check_inputs(model: Any, given: dict[str, Any]) -> None:
    _check_model(model)
    for name in VIDEOS:
        if given.get(name) is not None:
            raise ConfigError(f"{name}: packed inputs hold images only")
    for name in COMPUTED:
        if given.get(name) is not None:
            raise ConfigError(f"{name}: it is computed here from the image's cells; leave it out")
    for name in ("input_ids", "pixel_values", "image_grid_thw", "image_cells", "image_num_cells", "attention_mask"):
        if given.get(name) is not None and not isinstance(given[name], torch.Tensor):
            raise ConfigError(f"{name} is a {type(given[name]).__name__}: call the processor with return_tensors='pt'")
    if "input_ids" not in given or (given.get("pixel_values") is None) != (given.get("image_grid_thw") is None):
        raise ConfigError("inputs need input_ids, and pixel_values and image_grid_thw together or neither")


def _check_prompt(image_token: int, given: dict[str, Any]) -> None:
    mask = given.get("attention_mask")
    if mask is not None and not bool(mask[:, -1].all()):
        raise ConfigError("rows padded on the right: generation goes on after the padding; set padding_side='left'")
    if bool((given["input_ids"][:, -1] == image_token).any()):
        raise ConfigError("a prompt ends with an image: the position of what follows is unknown; put text after it")
