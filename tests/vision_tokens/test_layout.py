"""TokenLayout of one view."""

from __future__ import annotations

from maskcap.vision_tokens.layout import grid_layout


def test_boxes_tile_the_image_in_raster_order() -> None:
    layout = grid_layout(2, 4)
    assert len(layout) == 8 and layout.grid == (2, 4)
    assert layout.boxes[0].tolist() == [0, 0, 0.5, 0.25]
    assert layout.boxes[5].tolist() == [0.5, 0.25, 1, 0.5]
    heights, widths = layout.boxes[:, 2] - layout.boxes[:, 0], layout.boxes[:, 3] - layout.boxes[:, 1]
    assert (heights * widths).sum().item() == 1
