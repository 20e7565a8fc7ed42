"""Images of a batch → chosen cells and their pixels, on the device."""

from __future__ import annotations

import numpy as np
import torch

from maskcap.models.vlm.patch_pixels import choose_cells, gather_blocks
from maskcap.vision_tokens.entropy import entropy_pyramid
from maskcap.vision_tokens.patch_selection import select_patches
from maskcap.vision_tokens.settings import Patches


def test_entropies_are_those_of_whole_grey_levels() -> None:
    """.114 · 250 = 28.5 lies on the edge of two bins: half a grey level of rounding would fill both."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[..., 2] = 250
    image[:16, :16] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    noise = torch.empty(3, 32, 32).uniform_(-0.4, 0.4, generator=torch.Generator().manual_seed(0))
    pixels = (torch.from_numpy(image).permute(2, 0, 1) + noise) / 255
    patches = Patches(method="v1", thresholds=(0.5, 0.5))
    (found,) = choose_cells([pixels], 4, patches)
    expected = select_patches(entropy_pyramid(image, 4, 3), "v1", thresholds=(0.5, 0.5)).cells
    assert np.array_equal(found, expected) and len(found) == 16 + 3 * 1 * 1  # noise fine, the rest 4 × 4 cells


def test_a_coarse_cells_pixels_are_means() -> None:
    pixels = torch.rand(3, 8, 24, generator=torch.Generator().manual_seed(0))
    cells = np.array([[0, 0, 1], [0, 2, 0], [0, 3, 0], [0, 4, 1], [1, 2, 0], [1, 3, 0]])
    found = gather_blocks([pixels], [cells], patch=2, merge=2).view(6, 2, 2, 3, 2, 2, 2)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    normal = (pixels - mean[:, None, None]) / std[:, None, None]
    for number, (row, column, level) in enumerate(cells.tolist()):
        side = 2**level
        area = normal[:, row * 4 : row * 4 + 4 * side, column * 4 : column * 4 + 4 * side]
        block = area.reshape(3, 4, side, 4, side).mean(dim=(2, 4))
        for y in range(4):
            for x in range(4):
                values = found[number, y // 2, x // 2, :, :, y % 2, x % 2]
                torch.testing.assert_close(values, block[:, y, x][:, None].expand(3, 2))
