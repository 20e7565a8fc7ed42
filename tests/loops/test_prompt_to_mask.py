"""Boxes and points against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcap.loops.prompt_to_mask import mask_boxes, random_points


def test_boxes_are_the_masks_extent() -> None:
    masks = np.random.default_rng(0).random((6, 20, 30)) < 0.01
    masks[0] = False
    masks[1] = True
    masks[2:, 5, 7] = True
    boxes = mask_boxes(torch.from_numpy(masks).float()).numpy()
    assert boxes[0].tolist() == [0, 0, 1, 1]
    for mask, box in zip(masks[1:], boxes[1:], strict=True):
        y, x = np.nonzero(mask)
        expected = [x.min() / 30, y.min() / 20, (x.max() + 1) / 30, (y.max() + 1) / 20]
        np.testing.assert_allclose(box, expected, rtol=1e-6)


def test_points_lie_inside_and_spread() -> None:
    mask = torch.zeros(1, 16, 16)
    mask[0, 4:8, 10:16] = 1
    seen = set()
    for seed in range(60):
        x, y = (random_points(mask, torch.Generator().manual_seed(seed))[0] * 16 - 0.5).tolist()
        assert mask[0, round(y), round(x)] == 1
        seen.add((round(x), round(y)))
    assert len(seen) > 15


def test_a_point_is_the_kth_set_pixel_by_one_draw_a_mask() -> None:
    masks = torch.rand(50, 9, 7, generator=torch.Generator().manual_seed(1)) < 0.3
    masks[0] = False
    masks[1] = True
    points = random_points(masks.float(), torch.Generator().manual_seed(5)).numpy()
    draws = torch.rand(50, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    assert points[0].tolist() == pytest.approx([6.5 / 7, 8.5 / 9])
    for mask, draw, point in list(zip(masks.numpy(), draws, points, strict=True))[1:]:
        y, x = np.nonzero(mask)
        k = int(draw * len(y))
        np.testing.assert_allclose(point, [(x[k] + 0.5) / 7, (y[k] + 0.5) / 9], rtol=1e-6)
