"""Packed images: their cells as the processor gives them, and what places them for Qwen2-VL and Qwen2.5-VL.

Shapes: N rows, L their length, n images, K cells of an image, ΣK of all of them, m = merge_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskcap.errors import ConfigError
from maskcap.models.vlm.cell_positions import mrope_positions, vision_positions, windows
from maskcap.vision_tokens.layout import cell_map, fine_cells


@dataclass(frozen=True, eq=False)
class PackedImage:
    """Cells int64 (K, 3) of one image, (row, column, level) in merge blocks. side: the longer of its grid in blocks."""

    cells: np.ndarray
    side: int


def packed_images(
    grid_n3: torch.Tensor, cells: torch.Tensor | None, counts: torch.Tensor | None, merge: int
) -> list[PackedImage]:
    """The n images of a processor's output; without cells, which is selection off, every block is a cell.

    grid_n3: image_grid_thw in patches, cells: image_cells (ΣK, 3), counts: image_num_cells (n). Waits for their device.
    Raises ConfigError where they do not belong together.
    """
    grids = [(int(height) // merge, int(width) // merge) for _, height, width in grid_n3.tolist()]
    if cells is None or counts is None:
        if cells is not None or counts is not None:
            raise ConfigError("image_cells and image_num_cells: give both, or neither where selection is off")
        return [PackedImage(fine_cells(*grid), max(grid)) for grid in grids]
    ends = counts.cumsum(0).tolist()
    if len(ends) != len(grids) or ends[-1] != len(cells):
        raise ConfigError(f"{len(cells)} image_cells, image_num_cells of {len(ends)} images, {len(grids)} grids")
    parts = np.split(cells.cpu().numpy(), ends[:-1])
    for number, (part, (rows, columns)) in enumerate(zip(parts, grids, strict=True)):
        if not _is_partition(part, rows, columns):
            raise ConfigError(f"image_cells of image {number} are no partition of its {rows} × {columns} blocks")
    return [PackedImage(part, max(grid)) for part, grid in zip(parts, grids, strict=True)]


def _is_partition(cells: np.ndarray, rows: int, columns: int) -> bool:
    """Whether every block lies in just one cell: cells of as many blocks that leave none out do not overlap."""
    if not len(cells) or cells.min() < 0 or (cells[:, :2] + 2 ** cells[:, 2:] > [rows, columns]).any():
        return False
    return (4 ** cells[:, 2]).sum() == rows * columns == (cell_map(cells) >= 0).sum()


def tower_inputs(cells: Sequence[np.ndarray], vision_config: Any) -> dict[str, torch.Tensor]:
    """What the vision tower needs beside the pixels of n images, under the names that the stock `forward` takes, on the
    host.

    cells: int64 (K, 3) of each. image_grid_thw int64 (n, 3) of 1 × K blocks, image_position_ids float32 (ΣK · m², 2) in
    patches; for Qwen2.5-VL also image_window_index int64 (ΣK) and image_cu_window_seqlens int32 (windows + 1). Raises
    ConfigError where a cell cannot lie in one window.
    """
    merge = int(vision_config.spatial_merge_size)
    positions = np.concatenate([vision_positions(each, merge) for each in cells])
    out = {
        "image_grid_thw": torch.tensor([[1, merge, merge * len(each)] for each in cells]),
        "image_position_ids": torch.from_numpy(positions),
    }
    if getattr(vision_config, "window_size", None) is None:
        return out
    side = vision_config.window_size // merge // vision_config.patch_size
    index, ends = _windows(cells, side, merge)
    out["image_window_index"] = torch.from_numpy(index)
    out["image_cu_window_seqlens"] = torch.from_numpy(ends).int()
    return out


def text_positions(
    images: Sequence[PackedImage], input_ids: torch.Tensor, attention_mask: torch.Tensor | None, image_token: int
) -> torch.Tensor:
    """M-RoPE positions int64 (3, N, L): images in the order of their tokens, text between and after them.

    Text goes on max(grid) // 2 patches after an image's first position, as in the stock model. attention_mask (N, L):
    0 for padding, on either side, whose positions are 0. Raises ConfigError where images and image tokens do not match.
    """
    ids_NL = input_ids.cpu().numpy()
    kept_NL = np.ones(ids_NL.shape, bool) if attention_mask is None else attention_mask.cpu().numpy().astype(bool)
    out_3NL = np.zeros((3, *ids_NL.shape), dtype=np.int64)
    left = iter(images)
    for row, (ids_L, kept_L) in enumerate(zip(ids_NL, kept_NL, strict=True)):
        out_3NL[:, row, kept_L] = _row_positions(ids_L[kept_L] == image_token, left)
    if next(left, None) is not None:
        raise ConfigError(f"{len(images)} images, and the text has places for fewer")
    return torch.from_numpy(out_3NL).to(input_ids.device)


def _row_positions(slots_L: np.ndarray, images: Iterator[PackedImage]) -> np.ndarray:
    """Positions (3, L) of one row; slots_L: whether a token is an image's."""
    parts, at, start = [np.empty((3, 0), dtype=np.int64)], 0, 0
    while at < len(slots_L):
        if slots_L[at]:
            image = next(images, None)
            if image is None or slots_L[at : at + len(image.cells)].sum() < len(image.cells):
                wanted = "no image" if image is None else f"an image of {len(image.cells)} cells"
                raise ConfigError(f"the image tokens from token {at} of a row on do not match: there is {wanted}")
            parts.append(start + mrope_positions(image.cells))
            at, start = at + len(image.cells), start + image.side
        else:
            text = slots_L[at:]
            count = int(text.argmax()) if text.any() else len(text)
            parts.append(np.broadcast_to(start + np.arange(count), (3, count)))
            at, start = at + count, start + count
    return np.concatenate(parts, axis=1)


def _windows(cells: Sequence[np.ndarray], side: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """All images' cells in window order (ΣK), and where each window ends in patches, 0 first (windows + 1)."""
    coarsest = 2 ** max(int(each[:, 2].max()) for each in cells)
    if side % coarsest:
        raise ConfigError(f"cells of {coarsest} blocks do not fit attention windows of {side}: take fewer patch_levels")
    orders, lengths, before = [], [np.zeros(1, dtype=np.int64)], 0
    for each in cells:
        order, patches = windows(each, side, merge)
        orders.append(order + before)
        lengths.append(patches)
        before += len(each)
    return np.concatenate(orders), np.concatenate(lengths).cumsum()
