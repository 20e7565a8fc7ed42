"""TokenLayout: the rectangle of the image that each vision token looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenLayout:
    """Where the T kept tokens of an image look.

    boxes: float32 (T, 4), (top, left, bottom, right) as shares of the image, 0..1.
    crop:  int64 (T,), the crop a token is from; 0 is the global view.
    grid:  (rows, columns) when the tokens tile the whole image in raster order, else None.
    """

    boxes: torch.Tensor
    crop: torch.Tensor
    grid: tuple[int, int] | None

    def __len__(self) -> int:
        return self.boxes.shape[0]


def grid_layout(rows: int, columns: int) -> TokenLayout:
    """Layout of one view cut into `rows` × `columns` equal cells, raster order."""
    top = torch.arange(rows).repeat_interleave(columns)
    left = torch.arange(columns).repeat(rows)
    boxes = torch.stack([top / rows, left / columns, (top + 1) / rows, (left + 1) / columns], dim=1)
    return TokenLayout(boxes, torch.zeros(rows * columns, dtype=torch.int64), (rows, columns))
