"""Qwen2-VL's processor with adaptive patches: flat parts of an image become coarser cells, so fewer tokens.

Subclasses of Hugging Face's `Qwen2VLImageProcessorPil` (no torchvision) and `Qwen2VLProcessor`. With selection off they
return what the stock classes return, bit for bit.

Shapes: n images, K cells of an image, ΣK of all of them, m = merge_size, P = 3 · temporal_patch_size · patch_size².
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorKwargs,
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from maskcap.errors import ConfigError
from maskcap.vision_tokens.entropy import entropy_pyramid
from maskcap.vision_tokens.patch_selection import budget_counts, check_selection, select_patches

OFF = "none"


class AdaptiveImagesKwargs(Qwen2VLImageProcessorKwargs, total=False):
    """What `images_kwargs` may hold: the stock keys and these.

    patch_selection_method: "v1", "v2" or "budget" (`patch_selection`); None or "none" turns selection off.
    alpha: of "v2" and "budget". patch_thresholds: of "v1", bits, one for each level above the finest.
    patch_levels: cell sizes, the finest included: 28, 56, 112 px for 3.
    """

    patch_selection_method: str | None
    alpha: float | int | None
    patch_thresholds: list[float] | tuple[float, ...] | None
    patch_levels: int


class AdaptiveQwen2VLImageProcessor(Qwen2VLImageProcessorPil):
    """Stock image processor that can merge cells of low entropy.

    The keys of `AdaptiveImagesKwargs` are attributes, which hold for every call and are saved with the processor; a key
    of a call takes their place for that call, None too. With selection on a call returns, beside `pixel_values`
    float32 [ΣK · m², P] and the true `image_grid_thw` int64 [n, 3], `image_cells` int64 [ΣK, 3], (row, column, level)
    in merge blocks, and `image_num_cells` int64 [n]. A cell of level s is averaged by 2^s to one merge block.

    Raises ConfigError for settings that `check_selection` refuses, or an image without three 8-bit channels.
    """

    valid_kwargs = AdaptiveImagesKwargs
    patch_selection_method: str | None = None
    alpha: float | int | None = None
    patch_thresholds: list[float] | tuple[float, ...] | None = None
    patch_levels: int = 3

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.last_budget_info: list[dict[str, Any]] = []
        """`Selection.info` of each image of the last call, empty where selection was off; never saved."""

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As stock, with the keys of `AdaptiveImagesKwargs`. Raises ConfigError also for a call's alpha or thresholds
        without a method, of the call or of the processor: nothing would read them."""
        method = kwargs.get("patch_selection_method", self.patch_selection_method)
        for name in ("alpha", "patch_thresholds"):
            if kwargs.get(name) is not None and method is None:
                raise ConfigError(f"{name}={kwargs[name]} without a patch_selection_method: budget, v1 or v2")
        return super().preprocess(images, **kwargs)

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        self.last_budget_info = []
        if _is_off(kwargs["patch_selection_method"]):
            return super()._preprocess(images, **kwargs)
        found = [self._adapt(image, **kwargs) for image in images]
        patches, grids, cells, info = (list(part) for part in zip(*found, strict=True))
        self.last_budget_info = info
        data = {
            "pixel_values": np.concatenate(patches),
            "image_grid_thw": np.array(grids, dtype=np.int64),
            "image_cells": np.concatenate(cells),
            "image_num_cells": np.array([len(part) for part in cells], dtype=np.int64),
        }
        return BatchFeature(data=data, tensor_type=kwargs["return_tensors"])

    def _adapt(self, image: np.ndarray, **kwargs: Any) -> tuple[np.ndarray, list[int], np.ndarray, dict[str, Any]]:
        """Image (3, H, W) → patches (K · m², P), grid [1, h, w] in patches, cells (K, 3), `Selection.info`."""
        method, alpha, levels = kwargs["patch_selection_method"], kwargs["alpha"], kwargs["patch_levels"]
        check_selection(method, alpha, kwargs["patch_thresholds"], levels)
        side = kwargs["patch_size"] * kwargs["merge_size"]
        if kwargs["do_resize"]:
            image = self.resize(image, size=kwargs["size"], resample=kwargs["resample"], factor=side)
        pyramid = entropy_pyramid(_eight_bit(image), side, levels)
        selection = select_patches(pyramid, method, alpha, kwargs["patch_thresholds"])
        if kwargs["do_rescale"]:
            image = self.rescale(image, kwargs["rescale_factor"])
        if kwargs["do_normalize"]:
            image = self.normalize(image, kwargs["image_mean"], kwargs["image_std"])
        grid = [1, image.shape[1] // kwargs["patch_size"], image.shape[2] // kwargs["patch_size"]]
        return self._cell_patches(image, selection.cells, **kwargs), grid, selection.cells, selection.info

    def _cell_patches(self, image: np.ndarray, cells_K3: np.ndarray, **kwargs: Any) -> np.ndarray:
        """Normalised image (3, H, W) → patches (K · m², P), a cell's after each other."""
        merge, patch, time = kwargs["merge_size"], kwargs["patch_size"], kwargs["temporal_patch_size"]
        out: np.ndarray | None = None
        for level in np.unique(cells_K3[:, 2]):
            coarse = _averaged(image, int(level), merge * patch)
            patches, _, grid_w = self.patchify(coarse, patch, merge, time)
            blocks = patches.reshape(-1, merge**2, patches.shape[1])
            if out is None:
                out = np.empty((len(cells_K3), *blocks.shape[1:]), dtype=patches.dtype)
            here = cells_K3[:, 2] == level
            rows, columns = cells_K3[here, 0] >> level, cells_K3[here, 1] >> level
            out[here] = blocks[rows * (grid_w // merge) + columns]
        assert out is not None  # a selection has a cell
        return out.reshape(-1, out.shape[-1])

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """Patches of an image of height × width px, without seeing it.

        Raises ConfigError for "v1" and "v2", whose count depends on the pixels.
        """
        given = images_kwargs or {}
        method = given.get("patch_selection_method", self.patch_selection_method)
        if _is_off(method):
            return super().get_number_of_image_patches(height, width, images_kwargs)
        alpha, levels = given.get("alpha", self.alpha), given.get("patch_levels", self.patch_levels)
        check_selection(method, alpha, given.get("patch_thresholds", self.patch_thresholds), levels)
        if method != "budget":
            raise ConfigError(
                f"patch_selection_method={method!r}: the number of tokens depends on the image's pixels, and a size "
                "does not give it; take 'budget', or turn selection off"
            )
        size = given.get("size") or self.size
        least, most = given.get("min_pixels", size["shortest_edge"]), given.get("max_pixels", size["longest_edge"])
        merge = given.get("merge_size", self.merge_size)
        side = given.get("patch_size", self.patch_size) * merge
        resized_h, resized_w = smart_resize(height, width, side, min_pixels=least, max_pixels=most)
        return budget_counts(resized_h // side, resized_w // side, levels, alpha)["actual"] * merge**2

    def to_dict(self) -> dict[str, Any]:
        """The settings, as they are saved."""
        settings = super().to_dict()
        settings.pop("last_budget_info", None)
        return settings


class AdaptiveQwen2VLProcessor(Qwen2VLProcessor):
    """Stock processor around `AdaptiveQwen2VLImageProcessor`: an image takes as many `<|image_pad|>` as it has cells.

    Load what it saved with its own `from_pretrained`: the library's AutoProcessor does not know it. It has no video
    processor, which would need torchvision; videos raise ConfigError. `from_pretrained` also reads a
    stock checkpoint's folder, and gives the keys of `AdaptiveImagesKwargs` to the image processor.
    """

    image_processor: AdaptiveQwen2VLImageProcessor

    def __init__(
        self,
        image_processor: AdaptiveQwen2VLImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        if not isinstance(image_processor, AdaptiveQwen2VLImageProcessor):
            raise ConfigError(f"image_processor is a {type(image_processor).__name__}: AdaptiveQwen2VLImageProcessor")
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    @property
    def last_budget_info(self) -> list[dict[str, Any]]:
        """The image processor's: of each image of the last call with images, empty where selection was off."""
        return self.image_processor.last_budget_info

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        path = pretrained_model_name_or_path
        # a tokenizer would keep the keys of images, and the library then prefers them to the image processor's own
        of_images = AdaptiveImagesKwargs.__annotations__
        of_tokenizer = {key: value for key, value in kwargs.items() if key not in of_images}
        image_processor = AdaptiveQwen2VLImageProcessor.from_pretrained(path, **kwargs)
        return [image_processor, cls._load_tokenizer_from_pretrained("tokenizer", path, **of_tokenizer)]

    def validate_inputs(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> None:
        """As stock; videos raise ConfigError, which without a video processor the library would pass over."""
        if videos is not None:
            raise ConfigError("videos: this processor reads images only; take the stock Qwen2VLProcessor for videos")
        super().validate_inputs(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """`<|image_pad|>` K times."""
        if "image_num_cells" not in image_inputs:
            return super().replace_image_token(image_inputs, image_idx, **kwargs)
        return self.image_token * int(image_inputs["image_num_cells"][image_idx])


def _is_off(method: str | None) -> bool:
    return method is None or method == OFF


def _averaged(image: np.ndarray, level: int, side: int) -> np.ndarray:
    """Image (C, H, W) → float32, its mean over 2^level × 2^level px, where a cell of side · 2^level px fits."""
    if level == 0:
        return image  # the same array: the finest level stays the stock's, bit for bit
    height, width = (size // (side << level) * (side << level) for size in image.shape[1:])
    image = image[:, :height, :width].astype(np.float32)
    for _ in range(level):  # by halves: several times faster than a mean over two axes
        rows = image[:, 0::2] + image[:, 1::2]
        image = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)
    return image


def _eight_bit(image: np.ndarray) -> np.ndarray:
    """Resized image (3, H, W), 0..255 or floats in 0..1, → uint8 (H, W, 3)."""
    if image.shape[0] != 3:
        raise ConfigError(f"an image of {image.shape[0]} channels: patch selection needs RGB; leave do_convert_rgb on")
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if not 0 <= low <= high <= 255:
            raise ConfigError(f"pixels from {low:g} to {high:g}: patch selection needs 0..255, or floats in 0..1")
        scale = 255 if high <= 1 and np.issubdtype(image.dtype, np.floating) else 1
        image = np.rint(image * scale).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))
