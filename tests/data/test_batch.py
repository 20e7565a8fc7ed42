from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise
from maskcap.data.collate import collate
from maskcap.data.record import Record
from maskcap.data.sample import make_sample
from maskcap.errors import DataError


@pytest.fixture
def samples(image_ref, region):
    """Three samples of 2, 1 and 3 regions; the second has no captions."""
    records = [
        Record("a/train/0", image_ref("a0", seed=0), (region(0), region(1))),
        Record("b/train/1", image_ref("b1", 20, 40, seed=1), (region(2, 20, 40, captions=()),)),
        Record("a/train/2", image_ref("a2", seed=2), (region(3), region(4), region(5))),
    ]
    return [make_sample(r, np.random.default_rng(0), image_size=16, regions_per_image=None) for r in records]


def test_collate_flattens_regions(samples):
    batch = collate(samples)
    assert batch.image1.shape == (3, 3, 16, 16) and batch.image1.dtype == torch.uint8
    assert batch.mask1.shape == (6, 16, 16) and batch.mask1.dtype == torch.uint8
    assert batch.region_image.dtype == torch.int64 and batch.region_image.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.region_ids == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert batch.caption[2] is None and batch.references[2] == () and batch["phrase"][2] is None
    assert all(isinstance(batch.caption[i], str) for i in (0, 1, 3, 4, 5))
    assert batch.keys == ["a/train/0", "b/train/1", "a/train/2"]
    assert batch.sources == ["a", "b", "a"] and batch.sizes == [(24, 32), (20, 40), (24, 32)]
    for r, (i, k) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]):
        assert torch.equal(batch.mask1[r], samples[i].mask1[k])
    assert batch.names_of([1, 5]) == ["a/train/0 region r1", "a/train/2 region r5"]
    assert batch.tiny_regions == 0 and collate([replace(s, tiny_regions=2) for s in samples]).tiny_regions == 6
    assert not batch.is_padding(2) and replace(batch, padding=(False, False, True)).is_padding(2)
    with pytest.raises(KeyError, match="no field"):
        batch["masks"]


def test_normalise_against_numpy(samples):
    raw = collate(samples)
    batch = normalise(raw)
    image = np.stack([sample.image1.numpy() for sample in samples]).astype(np.float64) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (image - mean[None, :, None, None]) / std[None, :, None, None]
    assert batch.image1.dtype == torch.float32 and batch.mask1.dtype == torch.float32
    np.testing.assert_allclose(batch.image1.numpy(), expected, atol=2e-6)
    assert torch.equal(batch.mask1, raw.mask1.float())
    assert raw.image1.dtype == torch.uint8  # the input is left alone
    assert (IMAGENET_MEAN, IMAGENET_STD) == (tuple(mean), tuple(std))


def test_denormalise_inverts(samples):
    raw = collate(samples)
    pictures = denormalise(normalise(raw).image1)
    assert torch.equal((pictures * 255).round().to(torch.uint8), raw.image1)
    assert denormalise(torch.full((3, 2, 2), 99.0)).max() == 1.0


def test_twice_normalised_is_an_error(samples):
    with pytest.raises(DataError, match="normalised already"):
        normalise(normalise(collate(samples)))


def test_pairs(samples):
    pairs = [replace(s, image2=s.image1 // 2, mask2=1 - s.mask1) for s in samples]
    batch = normalise(collate(pairs))
    assert batch.mask2 is not None and batch.image2 is not None
    assert torch.equal(batch.mask2, 1 - batch.mask1)
    assert torch.equal(batch.image2, normalise(collate([replace(s, image1=s.image1 // 2) for s in pairs])).image1)
    with pytest.raises(DataError, match="a/train/0 is a pair of frames and b/train/1 a single image"):
        collate([pairs[0], samples[1]])
    with pytest.raises(DataError, match="b/train/1 is a pair of frames and a/train/0 a single image"):
        collate([samples[0], pairs[1]])


def test_different_sizes_and_nothing_at_all(samples):
    small = replace(samples[1], image1=samples[1].image1[:, :8, :8], mask1=samples[1].mask1[:, :8, :8])
    with pytest.raises(DataError, match=r"a/train/0 is \(3, 16, 16\) and b/train/1 is \(3, 8, 8\)"):
        collate([samples[0], small])
    with pytest.raises(DataError, match="empty list"):
        collate([])


def test_to_moves_every_tensor(samples):
    pairs = [replace(s, image2=s.image1, mask2=s.mask1) for s in samples]
    batch = collate(pairs).to("meta", non_blocking=True)
    for name in ("image1", "mask1", "region_image", "image2", "mask2"):
        assert batch[name].device.type == "meta"
    assert batch.caption == collate(pairs).caption
    assert collate(samples).to("cpu").image2 is None
