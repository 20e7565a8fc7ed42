"""Entropies against a histogram of every cell, in NumPy and in torch."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from maskcap.errors import ConfigError
from maskcap.vision_tokens.entropy import BINS, entropy_maps, entropy_pyramid, to_gray

_EDGES = np.arange(BINS + 1) / 2


def _gray(pixels_HW3: np.ndarray) -> np.ndarray:
    """The specification's sum in float32."""
    red, green, blue = (pixels_HW3[..., channel].astype(np.float32) for channel in range(3))
    return red * np.float32(0.2989) + green * np.float32(0.5870) + blue * np.float32(0.1140)


def _per_cell(gray_HW: np.ndarray, side: int) -> np.ndarray:
    """float64 (h, w): a histogram of every cell, and the specification's formula."""
    bits_hw = np.zeros((gray_HW.shape[0] // side, gray_HW.shape[1] // side))
    for row, column in np.ndindex(bits_hw.shape):
        cell = gray_HW[row * side : (row + 1) * side, column * side : (column + 1) * side]
        p = np.histogram(cell, bins=_EDGES)[0] / side**2
        bits_hw[row, column] = -(p * np.log2(p + 1e-10)).sum()
    return bits_hw


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth shading, a textured part, sharp edges and one part of a single colour; uint8 (H, W, 3)."""
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float64)
    image[: height // 2, : width // 2] += rng.normal(0, 12, (height // 2, width // 2, 1))
    image[height // 3 : height // 2, width // 4 :] = (20, 200, 90)
    image[-height // 3 :, : width // 3] = 255
    return image.clip(0, 255).astype(np.uint8)


def _images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0, 255, 280).astype(np.uint8)[None, :, None], (196, 280, 3))
    return {
        "random": rng.integers(0, 256, (196, 280, 3), dtype=np.uint8),
        "flat": np.full((196, 280, 3), (17, 200, 91), dtype=np.uint8),
        "gradient": ramp,
        "photo": _photo(rng, 196, 280),
        "two grays": rng.choice(np.array([0, 255], dtype=np.uint8), (196, 280, 1)).repeat(3, axis=2),
        "transposed": _photo(rng, 280, 196).swapaxes(0, 1),
        "mirrored": _photo(rng, 196, 280)[:, ::-1],
    }


@pytest.mark.parametrize("name", _images())
def test_entropies_equal_a_histogram_of_every_cell(name: str) -> None:
    image = _images()[name]
    pyramid = entropy_pyramid(image, 28, 3)
    assert [level.shape for level in pyramid] == [(7, 10), (3, 5), (1, 2)]
    for level, bits in enumerate(pyramid):
        assert bits.dtype == np.float32
        np.testing.assert_allclose(bits, _per_cell(_gray(image), 28 << level), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("cell", "levels"), [(1, 3), (2, 4), (7, 2), (14, 5), (196, 1)])
def test_other_cells_and_levels(cell: int, levels: int) -> None:
    image = _photo(np.random.default_rng(1), 196, 196)
    pyramid = entropy_pyramid(image, cell, levels)
    for level, bits in enumerate(pyramid):
        np.testing.assert_allclose(bits, _per_cell(_gray(image), cell << level), rtol=0, atol=2e-5)


def test_gray_is_the_weighted_sum_in_float32() -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    gray = to_gray(image)
    assert gray.dtype == np.float32
    np.testing.assert_array_equal(gray, _gray(image))
    np.testing.assert_allclose(gray, image @ [0.2989, 0.5870, 0.1140], atol=5e-5)


def test_white_lies_in_a_bin_and_known_entropies_come_out() -> None:
    white = np.full((4, 4, 3), 255, dtype=np.uint8)
    assert to_gray(white).max() == pytest.approx(254.9745) and to_gray(white).max() * 2 < BINS
    assert entropy_pyramid(white, 2, 2)[1].tolist() == [[0]]
    # four grays in equal shares are 2 bits; each of the four cells below has one gray
    grays = np.kron([[0, 60], [120, 255]], np.ones((2, 2))).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    fine, coarse = entropy_pyramid(grays, 2, 2)
    assert fine.tolist() == [[0, 0], [0, 0]]
    assert coarse.item() == pytest.approx(2, abs=1e-6)


def test_the_same_shares_in_other_bins_are_the_same_entropy_exactly() -> None:
    rng = np.random.default_rng(3)
    shares = rng.integers(0, 40, (28, 28))
    images = [(shares * step + start).astype(np.uint8) for step, start in ((1, 0), (1, 200), (3, 5), (6, 9))]
    bits = [entropy_pyramid(image[:, :, None].repeat(3, axis=2), 28, 1)[0].item() for image in images]
    assert len(set(bits)) == 1 and bits[0] > 4


def test_a_level_without_cells_is_empty() -> None:
    image = np.zeros((28, 140, 3), dtype=np.uint8)
    assert [level.shape for level in entropy_pyramid(image, 28, 3)] == [(1, 5), (0, 2), (0, 1)]
    pixels = torch.zeros(2, 3, 28, 140)
    assert [tuple(level.shape) for level in entropy_maps(pixels, 28, 3)] == [(2, 1, 5), (2, 0, 2), (2, 0, 1)]
    # no table is made for cells of 28 · 2^39 px
    assert entropy_pyramid(image, 28, 40)[39].shape == (0, 0)
    assert entropy_maps(pixels, 28, 40)[39].shape == (2, 0, 0)


def test_wrong_images_and_settings_are_errors() -> None:
    image = np.zeros((56, 84, 3), dtype=np.uint8)
    pixels = torch.zeros(1, 3, 56, 84)
    for cell, levels, message in ((0, 1, "cell=0 px"), (28, 0, "levels=0"), (27, 1, "56×84 px"), (56, 1, "56×84 px")):
        with pytest.raises(ConfigError, match=message):
            entropy_pyramid(image, cell, levels)
        with pytest.raises(ConfigError, match=message):
            entropy_maps(pixels, cell, levels)
    for wrong in (image.astype(np.float32), image[..., 0], image[..., :2]):
        with pytest.raises(ConfigError, match="uint8 RGB"):
            entropy_pyramid(wrong, 28, 1)
    with pytest.raises(ConfigError, match="0×84 px"):
        entropy_pyramid(image[:0], 28, 1)
    for wrong in (pixels[0], pixels[:, :2]):
        with pytest.raises(ConfigError, match="B, 3, H, W"):
            entropy_maps(wrong, 28, 1)


def test_896_px_and_three_levels_take_less_than_50_ms_of_a_core() -> None:
    image = _photo(np.random.default_rng(4), 896, 896)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        pyramid = entropy_pyramid(image, 28, 3)
        seconds.append(time.process_time() - start)
    assert [level.shape for level in pyramid] == [(32, 32), (16, 16), (8, 8)]
    assert min(seconds) < 0.05


def test_torch_gives_numpys_entropies_bit_for_bit() -> None:
    images = np.stack([image for name, image in _images().items()])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    for batch in (pixels, pixels.float(), pixels.contiguous().double()):
        maps = entropy_maps(batch, 28, 3)
        for index, image in enumerate(images):
            for bits, expected in zip(maps, entropy_pyramid(image, 28, 3), strict=True):
                assert bits.dtype == torch.float32
                np.testing.assert_array_equal(bits[index].numpy(), expected)
    sideways = entropy_maps(pixels.transpose(2, 3), 28, 2)
    torch.testing.assert_close(sideways[0], entropy_maps(pixels, 28, 1)[0].transpose(1, 2), rtol=0, atol=0)


def test_pixels_between_whole_numbers_and_outside_the_range() -> None:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 3, 56, 84, generator=generator) * 255
    for level, bits in enumerate(entropy_maps(pixels, 14, 3)):
        for image, expected in zip(pixels, bits, strict=True):
            reference = _per_cell(_gray(image.permute(1, 2, 0).numpy()), 14 << level)
            np.testing.assert_allclose(expected.numpy(), reference, rtol=0, atol=2e-5)
    outside = torch.where(torch.arange(28) % 2 == 0, -1e3, 1e3).expand(1, 3, 28, 28)
    assert entropy_maps(outside, 28, 1)[0].item() == pytest.approx(1, abs=1e-6)
    assert math.isfinite(entropy_maps(torch.full((1, 3, 28, 28), float("nan")), 28, 1)[0].item())


def test_no_value_is_read_back_from_the_device() -> None:
    # tensors of the meta device hold none: item(), nonzero() or a boolean index raise on them
    maps = entropy_maps(torch.empty(2, 3, 112, 168, device="meta"), 28, 3)
    assert [(tuple(bits.shape), bits.device.type) for bits in maps] == [
        ((2, 4, 6), "meta"),
        ((2, 2, 3), "meta"),
        ((2, 1, 1), "meta"),
    ]


def test_torch_is_not_imported_for_numpys_images() -> None:
    program = (
        "import sys, maskcap.vision_tokens.entropy, maskcap.vision_tokens.patch_selection;"
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
