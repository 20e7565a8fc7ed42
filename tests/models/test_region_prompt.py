"""Region prompts against independent numpy computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskcap.models.region_prompt import (
    coverage,
    fill_empty,
    pool_masks,
    resize_image,
    select_features,
)


def _bilinear(image_CHW: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resize with half-pixel centres and no antialias, written out."""

    def axis(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = (np.arange(size) + 0.5) * length / size - 0.5
        at = at.clip(0, None)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, length - 1), at - low

    y0, y1, fy = axis(image_CHW.shape[1])
    x0, x1, fx = axis(image_CHW.shape[2])
    top = image_CHW[:, y0][:, :, x0] * (1 - fx) + image_CHW[:, y0][:, :, x1] * fx
    bottom = image_CHW[:, y1][:, :, x0] * (1 - fx) + image_CHW[:, y1][:, :, x1] * fx
    return top * (1 - fy)[:, None] + bottom * fy[:, None]


@pytest.mark.parametrize("source", [1024, 300])
def test_resize_to_448_is_bilinear_with_half_pixel_centres(source: int) -> None:
    image = np.random.default_rng(0).standard_normal((3, source, source)).astype(np.float32)
    resized = resize_image(torch.from_numpy(image)[None], 448)
    # torch places samples in float32: at coordinate 1000 that is 6e-5 of a pixel, on white noise up to 5e-4
    np.testing.assert_allclose(resized[0].numpy(), _bilinear(image.astype(np.float64), 448), atol=1e-3)


def test_nearest_pooling_samples_the_top_left_pixel_of_each_cell() -> None:
    mask = (np.random.default_rng(1).random((5, 1024, 1024)) < 0.5).astype(np.uint8)
    pooled = pool_masks(torch.from_numpy(mask), 16)
    assert pooled.dtype == torch.bool and pooled.shape == (5, 16, 16)
    np.testing.assert_array_equal(pooled.numpy(), mask[:, ::64, ::64].astype(bool))


def test_area_and_any_pooling() -> None:
    mask = (np.random.default_rng(2).random((3, 64, 64)) < 0.01).astype(np.float32)
    mask[0, :32] = 1
    cells = mask.reshape(3, 16, 4, 16, 4)
    np.testing.assert_array_equal(pool_masks(torch.from_numpy(mask), 16, "area").numpy(), cells.mean((2, 4)) > 0.5)
    np.testing.assert_array_equal(pool_masks(torch.from_numpy(mask), 16, "any").numpy(), cells.max((2, 4)) > 0)
    np.testing.assert_allclose(
        coverage(torch.from_numpy(mask), 16).numpy(), cells.mean((2, 4)).reshape(3, -1), atol=1e-6
    )


def test_unknown_pool_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="nearest, area or any"):
        pool_masks(torch.zeros(1, 8, 8), 4, "median")  # type: ignore[arg-type]


def test_empty_selection_takes_the_best_covered_cell_and_is_counted() -> None:
    mask = torch.zeros(2, 64, 64)
    mask[0, 33:36, 18:24] = 1  # between the sampled pixels: cells (8, 4) and (8, 5), the first covered more
    mask[0, 33:36, 20:24] = 1
    mask[0, 33:36, 18:20] = 0
    mask[1, :16, :16] = 1
    pooled = pool_masks(mask, 16)
    assert not pooled[0].any()
    filled, count = fill_empty(pooled, mask)
    assert int(count) == 1
    assert torch.nonzero(filled[0]).tolist() == [[8, 5]]
    assert torch.equal(filled[1], pooled[1])


def test_selection_is_in_raster_order_and_lets_no_gradient_reach_the_mask() -> None:
    rng = np.random.default_rng(3)
    features = rng.standard_normal((2, 16, 3)).astype(np.float32)
    masks = rng.random((3, 4, 4)) < 0.4
    masks[:, 0, 0] = True
    region_image = np.array([1, 0, 1])
    values = torch.from_numpy(features).requires_grad_()
    selected = select_features(values, torch.from_numpy(masks), torch.from_numpy(region_image))
    for region, tokens in enumerate(selected):
        expected = [
            features[region_image[region], r * 4 + c] for r in range(4) for c in range(4) if masks[region, r, c]
        ]
        np.testing.assert_array_equal(tokens.detach().numpy(), np.array(expected))
    torch.cat(selected).sum().backward()
    assert values.grad is not None and values.grad[0].sum() > 0
