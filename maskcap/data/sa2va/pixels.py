"""Pixels as Sa2VA's training code makes them, with Pillow alone: what torchvision does to a PIL image is Pillow's.

Shapes: N rows of `pixel_values`, S their size, G their tokens along a side, R regions; H, W the original size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.data.sa2va.options import Pool
from maskcap.models.region_prompt import fill_empty, pool_masks


def vision_rows(image_HW3: np.ndarray, size: int, tiles: tuple[int, int] | None = None) -> list[Image.Image]:
    """The images of S × S pixels that the vision tower sees: the whole one; with `tiles` (rows, columns), its tiles.

    Bicubic, antialiased, aspect ratio not kept. Tiles come row by row, of the image resized to rows·S × columns·S.
    """
    image = Image.fromarray(image_HW3)
    if tiles is None:
        return [image.resize((size, size), Image.Resampling.BICUBIC)]
    rows, columns = tiles
    whole = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    corners = [(column * size, row * size) for row in range(rows) for column in range(columns)]
    return [whole.crop((x, y, x + size, y + size)) for x, y in corners]


def normalised(rows: Sequence[Image.Image]) -> torch.Tensor:
    """Images → float32 (N, 3, S, S), `(x / 255 − mean) / std` with ImageNet's statistics, in this order."""
    pixels_NSS3 = torch.from_numpy(np.stack([np.asarray(row) for row in rows]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels_NSS3.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def segmenter_image(image_HW3: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (3, size, size), not normalised: Pillow's resize with its default filter, which is bicubic."""
    resized = Image.fromarray(image_HW3).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def select_tiles(height: int, width: int, size: int, min_tiles: int = 1, max_tiles: int = 12) -> tuple[int, int]:
    """(rows, columns) that InternVL cuts an image into: of all with `min_tiles` to `max_tiles` tiles the one whose
    columns / rows is nearest to width / height. Of several equally near ones the largest of which the image covers
    more than half, counted in pixels; the smallest if it covers half of none.

    Of equally near ones with as many tiles (which a narrow `min_tiles` … `max_tiles` can bring) the one with fewer rows
    comes first; InternVL leaves it to the order of a set.
    """
    counts = range(1, max_tiles + 1)
    grids = [(r, c) for r in counts for c in counts if min_tiles <= r * c <= max_tiles]
    best, least = (1, 1), float("inf")
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - columns / rows)
        if distance < least or (distance == least and height * width > 0.5 * size * size * rows * columns):
            best, least = (rows, columns), distance
    return best


def prompt_masks(masks_RHW: np.ndarray, pool: Pool, grid: int) -> tuple[torch.Tensor, int]:
    """Masks uint8 (R, H, W), none of them empty → cells uint8 0/1 (R, G, G), and how many regions were too small.

    "nearest" samples the masks as they are; "area" takes the cells of which more than half is covered. A region that
    gets no cell takes the one that it covers most; upstream leaves it without.
    """
    masks = torch.from_numpy(masks_RHW).float()
    cells, small = fill_empty(pool_masks(masks, grid, pool), masks)
    return cells.to(torch.uint8), int(small)
