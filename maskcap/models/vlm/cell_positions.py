"""Where the cells of a Qwen2-VL image stand: for the vision tower's rotary positions, its windows, and M-RoPE.

A cell (row, column, level) of an image is 2^level merge blocks a side; row and column are in merge blocks. Level 0
everywhere gives the stock model's own integers.

Shapes: K cells, m patches a side of a merge block.
"""

from __future__ import annotations

import numpy as np


def vision_positions(cells_K3: np.ndarray, merge_size: int = 2) -> np.ndarray:
    """(row, column) of every patch in patch units, float32 (K·m², 2), a cell's patches after each other.

    A level-s cell is averaged to one block, so its patches look at the centres of parts of 2^s × 2^s patches:
    y = m·row + (a + ½)·2^s − ½ for a in 0 … m − 1, x likewise.
    """
    corner_K2, scale_K = merge_size * cells_K3[:, :2], 2.0 ** cells_K3[:, 2]
    inside_Km = (np.arange(merge_size) + 0.5) * scale_K[:, None] - 0.5
    y_Kmm = np.broadcast_to((corner_K2[:, :1] + inside_Km)[:, :, None], (len(cells_K3), merge_size, merge_size))
    x_Kmm = np.broadcast_to((corner_K2[:, 1:] + inside_Km)[:, None, :], (len(cells_K3), merge_size, merge_size))
    return np.stack([y_Kmm.reshape(-1), x_Kmm.reshape(-1)], axis=1).astype(np.float32)


def mrope_positions(cells_K3: np.ndarray) -> np.ndarray:
    """M-RoPE (time, height, width) of the cells after the image's first position, int64 (3, K).

    A level-s cell stands at the middle of the blocks that it covers, rounded down: row + (2^s − 1) // 2.
    """
    middle_K = (2 ** cells_K3[:, 2] - 1) // 2
    return np.stack([np.zeros_like(middle_K), cells_K3[:, 0] + middle_K, cells_K3[:, 1] + middle_K]).astype(np.int64)


def windows(cells_K3: np.ndarray, side: int, merge_size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Qwen2.5-VL's attention windows of one image: (the cells in window order, int64 (K,); patches of each window).

    side: of a window in merge blocks, a multiple of the coarsest cell's, so that no cell is in two. Windows are in
    raster order, and so are the cells in each.
    """
    window_K = (cells_K3[:, 0] // side) * (int(cells_K3[:, 1].max()) // side + 1) + cells_K3[:, 1] // side
    order_K = np.argsort(window_K, kind="stable")
    _, cells = np.unique(window_K, return_counts=True)
    return order_K, cells.astype(np.int64) * merge_size**2
