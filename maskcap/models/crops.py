"""Overlapping crops of a batch of images → their tokens: all views of all images through the vision tower in one batch.

Shapes: B images, V views of all of them together, S side of a view, s tokens a side of a view, T most tokens of an
image, C the language model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.models.region_prompt import resize_image
from maskcap.models.transfer import to_device
from maskcap.models.vlm.interface import ImageTokens, place_tokens
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.layout import tiling_layout
from maskcap.vision_tokens.tiling import Fit, fit

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM

Tiling = tuple[int, int]


def encode_crops(
    vlm: VLM,
    image1: torch.Tensor,
    sizes: Sequence[tuple[int, int]],
    tilings: Sequence[Tiling],
    geometry: Geometry,
    global_view: bool = True,
) -> ImageTokens:
    """image1 (B, 3, H, W) normalised, whole images of any aspect ratio → tokens of B layouts, padded to the longest.

    sizes: the images' own (height, width), which their crops are cut in. tilings: crops of each, (rows, columns).
    The global view of an image, if there is one, comes before its crops and is the single view. Each view is computed
    once, and nothing waits for the device.
    """
    fits = [fit(*size, geometry.canvas(*tiling)) for size, tiling in zip(sizes, tilings, strict=True)]
    views = cut_views(image1, fits, tilings, geometry, vlm.antialias, global_view)
    layouts = tuple(
        tiling_layout(*tiling, placed, geometry, global_view) for tiling, placed in zip(tilings, fits, strict=True)
    )
    tokens_VssC = vlm.encode_views(views)
    kept = _kept(tilings, geometry, global_view)
    longest = max(len(rows) for rows in kept)
    # what fills a shorter image's places is never read
    rows_BT = np.stack([np.pad(rows, (0, longest - len(rows))) for rows in kept])
    (index,) = to_device([torch.from_numpy(rows_BT)], image1.device)
    features = tokens_VssC.flatten(0, 2).index_select(0, index.flatten()).view(*index.shape, -1)
    return place_tokens(features, layouts, geometry)


def cut_views(
    image1: torch.Tensor,
    fits: Sequence[Fit],
    tilings: Sequence[Tiling],
    geometry: Geometry,
    antialias: bool = False,
    global_view: bool = True,
) -> torch.Tensor:
    """(B, 3, H, W) normalised → (V, 3, S, S): each image's global view, then its crops in raster order.

    An image is resized to its place on the canvas (`Fit`, which gives it its own aspect ratio back); the rest of the
    canvas is black.
    """
    views = []
    wholes = resize_image(image1, geometry.crop, antialias) if global_view else None
    for image, (placed, tiling) in enumerate(zip(fits, tilings, strict=True)):
        if wholes is not None:
            views.append(wholes[image : image + 1])
        canvas_3HW = _place(image1[image : image + 1], placed, geometry.canvas(*tiling), antialias)[0]
        crops = canvas_3HW.unfold(1, geometry.crop, geometry.window).unfold(2, geometry.crop, geometry.window)
        views.append(crops.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(views)


def _place(image_13HW: torch.Tensor, placed: Fit, canvas: tuple[int, int], antialias: bool) -> torch.Tensor:
    """The image at its place on a black canvas, (1, 3, *canvas)."""
    size = placed.height, placed.width
    if image_13HW.shape[-2:] != size:
        image_13HW = F.interpolate(image_13HW, size, mode="bilinear", align_corners=False, antialias=antialias)
    if size == canvas:
        return image_13HW
    black = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    below, right = canvas[0] - placed.top - placed.height, canvas[1] - placed.left - placed.width
    edges = (placed.left, right, placed.top, below)
    channels = [F.pad(image_13HW[:, c], edges, value=value) for c, value in enumerate(black)]
    return torch.stack(channels, dim=1)


def _kept(tilings: Sequence[Tiling], geometry: Geometry, global_view: bool) -> list[np.ndarray]:
    """Of each image, the rows int64 of its tokens in V·s·s, in its layout's order."""
    found, first = [], 0
    for rows, columns in tilings:
        crops = first + global_view + np.arange(rows * columns).reshape(rows, columns)
        (row_crop, row), (column_crop, column) = geometry.kept_axis(rows), geometry.kept_axis(columns)
        at = (crops[row_crop[:, None], column_crop] * geometry.side + row[:, None]) * geometry.side + column
        whole = first * geometry.crop_tokens + np.arange(geometry.crop_tokens * global_view)
        found.append(np.concatenate([whole, at.reshape(-1)]))
        first += rows * columns + global_view
    return found
