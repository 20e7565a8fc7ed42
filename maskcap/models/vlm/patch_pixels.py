"""From a batch of images to the pixels of chosen cells, on the device: Qwen2-VL's preprocessing for training.

Shapes: B images, g of them of one size, H × W px, h × w merge blocks of S px, K cells, m patches of p px a side of a
block, T = 2 frames, which an image fills with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.models.transfer import to_device, to_host
from maskcap.vision_tokens.block_resize import BlockResize
from maskcap.vision_tokens.entropy import entropy_maps
from maskcap.vision_tokens.patch_selection import cells_of, level_maps

if TYPE_CHECKING:
    from maskcap.vision_tokens.settings import Patches

FRAMES = 2  # the library's temporal_patch_size
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, on 0..1 RGB
CLIP = tuple(1 / std for std in _STD), tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True))


def fitted(
    image1: torch.Tensor, sizes: Sequence[tuple[int, int]], resize: BlockResize, antialias: bool
) -> list[torch.Tensor]:
    """image1 (B, 3, H, W) ImageNet-normalised → pixels (3, H', W') of each image in 0..1, at its own aspect ratio.

    sizes: the images' own (height, width), by which `resize` finds H' and W'. Bilinear, in float32. Raises DataError
    for a size that Qwen2-VL refuses.
    """
    targets = [resize.size(*size) for size in sizes]
    pixels = _scale(image1.float(), IMAGENET_STD, IMAGENET_MEAN)
    groups = {target: [n for n, each in enumerate(targets) if each == target] for target in targets}
    found: dict[int, torch.Tensor] = {}
    for target, images in groups.items():
        group = pixels if len(images) == len(targets) else torch.stack([pixels[n] for n in images])
        if group.shape[-2:] != target:
            group = F.interpolate(group, target, mode="bilinear", align_corners=False, antialias=antialias)
        found.update(zip(images, group.unbind(), strict=True))
    return [found[n] for n in range(len(targets))]


def choose_cells(pixels: Sequence[torch.Tensor], block: int, patches: Patches) -> list[np.ndarray]:
    """pixels (3, H, W) in 0..1 of each image, sides multiples of `block` px → its partition, int64 (K, 3).

    Entropies are of whole grey levels, as of the picture in a file. Waits for the device once, for all images.
    """
    shapes, levels = [], []
    for group in _groups(pixels):
        stacked = torch.stack([pixels[n] for n in group])
        maps = entropy_maps((stacked * 255).round(), block, patches.levels)
        levels_ghw = level_maps(maps, patches.method, patches.alpha, patches.thresholds)
        shapes.append((group, levels_ghw.shape))
        levels.append(levels_ghw.flatten())
    host, first = to_host(torch.cat(levels)), 0
    found: dict[int, np.ndarray] = {}
    for group, shape in shapes:
        count = shape.numel()
        of_images = host[first : first + count].reshape(shape)
        found.update((n, cells_of(of_image)) for n, of_image in zip(group, of_images, strict=True))
        first += count
    return [found[n] for n in range(len(pixels))]


def gather_blocks(pixels: Sequence[torch.Tensor], cells: Sequence[np.ndarray], patch: int, merge: int) -> torch.Tensor:
    """pixels (3, H, W) in 0..1 and cells int64 (K, 3) of each image → `pixel_values` (ΣK · m², 3 · T · p²).

    A cell of level s is averaged over 2^s × 2^s px to one block, and normalised as CLIP's images are.
    """
    found: dict[int, torch.Tensor] = {}
    for group in _groups(pixels):
        stacked = torch.stack([pixels[n] for n in group])
        normal = _scale(stacked, *CLIP)
        blocks, rows = _pyramid(normal, [cells[n] for n in group], patch, merge)
        (index,) = to_device([torch.from_numpy(np.concatenate(rows))], stacked.device)
        counts = [len(each) for each in rows]
        found.update(zip(group, blocks.index_select(0, index).split(counts), strict=True))
    chosen = torch.cat([found[n] for n in range(len(pixels))])
    frames = chosen.unflatten(2, (3, 1, patch**2)).expand(-1, -1, -1, FRAMES, -1)
    return frames.reshape(chosen.shape[0] * merge**2, -1)


def _pyramid(
    pixels_g3HW: torch.Tensor, cells: Sequence[np.ndarray], patch: int, merge: int
) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Blocks (g · M, m², 3 · p²) of all levels that any of the cells has, and the row of each image's cells."""
    block = patch * merge
    height, width = (side // block for side in pixels_g3HW.shape[-2:])
    levels = 1 + max(int(each[:, 2].max()) for each in cells)
    parts = [_blocks(F.avg_pool2d(pixels_g3HW, 2**s) if s else pixels_g3HW, patch, merge) for s in range(levels)]
    starts = np.cumsum([0, *(part.shape[1] for part in parts)])
    rows = []
    for image, each in enumerate(cells):
        row, column, level = each.T
        rows.append(image * starts[-1] + starts[level] + (row >> level) * (width >> level) + (column >> level))
    assert starts[1] == height * width
    return torch.cat(parts, dim=1).flatten(0, 1), rows


def _blocks(pixels_g3HW: torch.Tensor, patch: int, merge: int) -> torch.Tensor:
    """Whole merge blocks in raster order, (g, h·w, m², 3 · p²); what is left over at the edges belongs to none."""
    block = patch * merge
    height, width = (side // block for side in pixels_g3HW.shape[-2:])
    whole = pixels_g3HW[..., : height * block, : width * block]
    split = whole.unflatten(2, (height, merge, patch)).unflatten(5, (width, merge, patch))
    return split.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(3, 4).flatten(1, 2)


def _groups(pixels: Sequence[torch.Tensor]) -> list[list[int]]:
    """Numbers of the images of each size."""
    found: dict[torch.Size, list[int]] = {}
    for n, each in enumerate(pixels):
        found.setdefault(each.shape, []).append(n)
    return list(found.values())


def _scale(pixels: torch.Tensor, factors: Sequence[float], summands: Sequence[float]) -> torch.Tensor:
    """(…, 3, H, W), each channel by its own numbers: Python's, as copying tensors over would wait for the device."""
    channels = pixels.unbind(-3)
    scaled = [channel * a + b for channel, a, b in zip(channels, factors, summands, strict=True)]
    return torch.stack(scaled, dim=-3)
