"""The table of splits, and any one scene as a pure function of (seed, split, index)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from maskcap.data.scenes.compose import Composition, compose
from maskcap.data.scenes.draw import draw_objects

_MIXED = {"random": 0.3, "duplicates": 0.4, "twins": 0.3}
_HARD = {"random": 0.1, "duplicates": 0.7, "twins": 0.2}  # to learn from: every word matters


@dataclass(frozen=True)
class Split:
    """One split of one layout: which kinds of scene it mixes, and its first image id (no two splits share an image)."""

    dataset: str
    name: str
    mix: dict[str, float]
    first_id: int

    @property
    def key(self) -> str:
        """`"refcoco/train"`: names the split and seeds its scenes."""
        return f"{self.dataset}/{self.name}"


SPLITS = (
    Split("refcoco", "train", _HARD, 1_000_000),
    Split("refcoco", "val", _MIXED, 2_000_000),
    Split("refcoco", "testA", _MIXED, 3_000_000),
    Split("refcoco", "testB", {"twins": 1.0}, 4_000_000),
    Split("refcoco+", "train", {"duplicates": 1.0}, 5_000_000),
    Split("refcoco+", "val", {"duplicates": 1.0}, 6_000_000),
    Split("refcoco+", "testA", {"duplicates": 1.0}, 7_000_000),
    Split("refcoco+", "testB", {"pair": 1.0}, 8_000_000),
    Split("sa1b", "train", {"random": 1.0}, 1),
)


@dataclass(frozen=True)
class Scene:
    """A drawn scene: `image` uint8 (H, W, 3) RGB, `masks` uint8 (N, H, W) of 0/1, one for each object."""

    image: np.ndarray
    masks: np.ndarray
    composition: Composition


def generator(seed: int, name: str, index: int) -> np.random.Generator:
    """The random numbers of one scene or video, the same on every machine and in every process."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def make_scene(seed: int, split: Split, index: int, size: int) -> Scene:
    """Draw scene `index` of a split, `size` pixels a side."""
    rng = generator(seed, split.key, index)
    kinds = list(split.mix)
    kind = kinds[rng.choice(len(kinds), p=list(split.mix.values()))]
    composition = compose(kind, index, rng)
    image, masks = draw_objects(composition.objects, size, rng)
    return Scene(image, masks, composition)
