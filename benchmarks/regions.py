"""Batches of drawn images with any number of regions, in memory: what a training step is timed on.

Shapes: B images, K regions of each, S image side.
"""

from __future__ import annotations

import numpy as np
import torch

from maskcap.data.batch import Batch, normalise
from maskcap.data.scenes import COLOURS, PLACES, SHAPES, SIZES, Attributes, format_phrase
from maskcap.data.scenes.draw import background, coverage, finish, paint, pick_colour, pick_radius

JITTER = 0.04  # of an object's centre, share of the side


def draw_batch(images: int, regions: int, side: int, sentences: int = 1, seed: int = 0) -> Batch:
    """B images of S px with K objects each, normalised, on the CPU; every region has a caption and a phrase.

    The demo's objects (3 to 20 of 256 image tokens each) and its sentences, such as "large red circle at the top
    left"; from the tenth object of an image on they overlap. A caption has as many sentences as asked for, the first
    of them true; its region's phrase is that one.
    """
    rng = np.random.default_rng((seed, images, regions))
    places = [PLACES[region % len(PLACES)] for region in range(regions)]
    drawn = [_draw([_attributes(rng, place) for place in places], side, rng) for _ in range(images)]
    phrases = [phrase for _, _, phrases in drawn for phrase in phrases]
    captions = [" and ".join([phrase, *(_sentence(rng) for _ in range(sentences - 1))]) for phrase in phrases]
    count = images * regions
    batch = Batch(
        image1=torch.from_numpy(np.stack([image_SS3.transpose(2, 0, 1) for image_SS3, _, _ in drawn])),
        mask1=torch.from_numpy(np.concatenate([masks_KSS for _, masks_KSS, _ in drawn])),
        region_image=torch.arange(images).repeat_interleave(regions),
        caption=list(captions),
        phrase=list(phrases),
        question=[None] * count,
        references=[(caption,) for caption in captions],
        phrases=[(phrase,) for phrase in phrases],
        region_ids=[str(region) for region in range(count)],
        keys=[f"drawn/train/{image}" for image in range(images)],
        sources=["drawn"] * images,
        sizes=[(side, side)] * images,
        host_region_image=tuple(image for image in range(images) for _ in range(regions)),
    )
    return normalise(batch)


def _draw(objects: list[Attributes], side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """uint8 (S, S, 3), masks uint8 (K, S, S) of 0/1, the objects' sentences."""
    image_SS3 = background(side, rng)
    masks_KSS = np.zeros((len(objects), side, side), np.uint8)
    for mask_SS, item in zip(masks_KSS, objects, strict=True):
        row, column = divmod(PLACES.index(item.place), 3)
        centre = (2 * np.array([column, row]) + 1) / 6 + rng.uniform(-JITTER, JITTER, 2)
        patch, window = coverage(item.shape, centre * side, pick_radius(item.size, rng) * side, side)
        paint(image_SS3, pick_colour(item.colour, rng), patch, window)
        mask_SS[window] = patch > 0.5
    return finish(image_SS3, rng), masks_KSS, [format_phrase(item) for item in objects]


def _attributes(rng: np.random.Generator, place: str) -> Attributes:
    size, colour, shape = (str(rng.choice(values)) for values in (SIZES, COLOURS, SHAPES))
    return Attributes(size, colour, shape, place)


def _sentence(rng: np.random.Generator) -> str:
    return format_phrase(_attributes(rng, str(rng.choice(PLACES))))
