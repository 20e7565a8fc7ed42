"""Entropy of the gray levels in square cells of an image, at several sizes of cells, in bits.

H = −Σ p · log2(p + 1e-10), p = count / cell area, over 512 bins of half a gray level. One histogram is taken at the
finest level; a coarser cell's is the sum of its four children's. Terms are added as whole multiples of 2^-27 bits, so
the order of bins does not matter: NumPy and every device give the same entropies, and equal ones are equal.

Shapes: B images, H × W px, h × w cells of a level, N bins, A + 1 counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskcap.errors import ConfigError

if TYPE_CHECKING:
    import torch

BINS = 512
"""Bins of a cell's histogram; bin i holds the gray levels from i / 2 to below (i + 1) / 2."""
_RED, _GREEN, _BLUE = 0.2989, 0.5870, 0.1140
_UNIT = 2.0**27  # 9 bits, the most that 512 bins can have, stay below 2^31; 512 terms are within 2^-19 bits


def to_gray(image_HW3: np.ndarray) -> np.ndarray:
    """.2989 R + .5870 G + .1140 B of uint8 (H, W, 3), added in this order in float32; float32 (H, W), 0..254.9745.

    Raises ConfigError for any other shape or dtype.
    """
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8:
        raise ConfigError(
            f"image of shape {image_HW3.shape} and dtype {image_HW3.dtype}: entropy is taken of uint8 RGB (H, W, 3), "
            "resized and not normalised"
        )
    gray_HW = np.multiply(image_HW3[..., 0], np.float32(_RED), dtype=np.float32)
    gray_HW += np.multiply(image_HW3[..., 1], np.float32(_GREEN), dtype=np.float32)
    gray_HW += np.multiply(image_HW3[..., 2], np.float32(_BLUE), dtype=np.float32)
    return gray_HW


def entropy_pyramid(image_HW3: np.ndarray, cell: int, levels: int) -> list[np.ndarray]:
    """Entropies of all cells that are wholly inside the image, float32 (h, w) of each level, 0..9 bits, finest first.

    image_HW3: uint8 RGB, each side a multiple of `cell` px. A cell of level s has cell · 2^s px a side, and level s has
    (H // cell) // 2^s rows of them; a level may be empty. One colour has exactly 0 bits. Raises ConfigError for other
    images, for cell < 1 and for levels < 1.
    """
    gray_HW = to_gray(image_HW3)
    height, width = gray_HW.shape
    rows, columns = _grid(height, width, cell, levels)
    # floor(gray / .5), at most 509; truncation is floor as nothing is negative
    index = np.multiply(gray_HW, 2, out=gray_HW).astype(np.int64).reshape(rows, cell, columns, cell)
    index += np.arange(0, rows * columns * BINS, BINS).reshape(rows, 1, columns, 1)
    counts_hwN = np.bincount(index.reshape(-1), minlength=rows * columns * BINS).reshape(rows, columns, BINS)
    pyramid = []
    for level in range(levels):
        if level:
            rows, columns = rows // 2, columns // 2
            counts_hwN = counts_hwN[: 2 * rows, : 2 * columns]
            counts_hwN = counts_hwN[0::2] + counts_hwN[1::2]
            counts_hwN = counts_hwN[:, 0::2] + counts_hwN[:, 1::2]
        if not rows * columns:  # nor a table of counts for cells larger than the image
            pyramid.append(np.zeros((rows, columns), dtype=np.float32))
            continue
        units_hw = _terms((cell << level) ** 2).take(counts_hwN).sum(axis=-1, dtype=np.int32)
        pyramid.append((units_hw / _UNIT).astype(np.float32))
    return pyramid


def entropy_maps(image_B3HW: torch.Tensor, cell: int, levels: int) -> list[torch.Tensor]:
    """`entropy_pyramid` of a batch, on its device and without waiting for it: float32 (B, h, w) of each level.

    image_B3HW: RGB of any float dtype or uint8, 0..255, not only whole numbers; what lies outside 0..256 counts in the
    first or last bin. Images of whole numbers have NumPy's entropies bit for bit. Raises ConfigError as that does.
    """
    import torch

    if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3:
        raise ConfigError(f"images of shape {tuple(image_B3HW.shape)}: entropy is taken of RGB (B, 3, H, W)")
    batch, _, height, width = image_B3HW.shape
    rows, columns = _grid(height, width, cell, levels)
    red_BHW, green_BHW, blue_BHW = image_B3HW.float().unbind(1)
    gray_BHW = red_BHW * _RED + green_BHW * _GREEN + blue_BHW * _BLUE
    index_BHW = (gray_BHW * 2).long().clamp(0, BINS - 1)
    cells = batch * rows * columns
    first_Bhw = torch.arange(0, cells * BINS, BINS, device=gray_BHW.device).view(batch, rows, 1, columns, 1)
    index = (index_BHW.reshape(batch, rows, cell, columns, cell) + first_Bhw).reshape(-1)
    # not bincount, which asks the device for the largest index
    counts = torch.zeros(cells * BINS, dtype=torch.int32, device=index.device)
    counts.scatter_add_(0, index, torch.ones_like(counts[:1]).expand_as(index))
    counts_BhwN = counts.view(batch, rows, columns, BINS)
    maps = []
    for level in range(levels):
        if level:
            rows, columns = rows // 2, columns // 2
            counts_BhwN = counts_BhwN[:, : 2 * rows, : 2 * columns]
            counts_BhwN = counts_BhwN[:, 0::2] + counts_BhwN[:, 1::2]
            counts_BhwN = counts_BhwN[:, :, 0::2] + counts_BhwN[:, :, 1::2]
        if not rows * columns:
            maps.append(gray_BHW.new_zeros((batch, rows, columns)))
            continue
        units_Bhw = _device_terms((cell << level) ** 2, index.device)[counts_BhwN].sum(-1, dtype=torch.int32)
        maps.append((units_Bhw.double() / _UNIT).float())
    return maps


def _grid(height: int, width: int, cell: int, levels: int) -> tuple[int, int]:
    """Rows and columns of base cells."""
    if cell < 1 or levels < 1:
        raise ConfigError(f"cell={cell} px, levels={levels}: both are at least 1")
    if not height or not width or height % cell or width % cell:
        raise ConfigError(f"image of {height}×{width} px: resize it to multiples of the cell's {cell} px first")
    return height // cell, width // cell


def _terms(area: int) -> np.ndarray:
    """A bin's part of the entropy for each count from 0 to the cell's area in px, int32 (A + 1,), in units.

    The 1e-10 makes a full bin's part −1.4e-10 bits: it is 0 here, so that no entropy is negative.
    """
    share_A = np.arange(area + 1) / area
    return np.rint(-share_A * np.log2(share_A + 1e-10) * _UNIT).clip(min=0).astype(np.int32)


def _device_terms(area: int, device: torch.device) -> torch.Tensor:
    """`_terms` computed on the device: copying them there would make the host wait."""
    import torch

    share_A = torch.arange(area + 1, dtype=torch.float64, device=device) / area
    return (-share_A * torch.log2(share_A + 1e-10) * _UNIT).round().clamp(min=0).to(torch.int32)
