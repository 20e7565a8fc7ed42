"""Counts of several ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from maskcap.data.batch import Batch
from maskcap.training.callbacks.image_counts import ImageCounts
from maskcap.training.callbacks.seen_images import SeenImages
from maskcap.training.callbacks.vision_tokens import VisionTokens


class Keys(ImageCounts):
    """Counts the images' sizes; keeps what it would log."""

    def __init__(self, on: bool = True) -> None:
        super().__init__()
        self.on = on
        self.said: list[tuple[str, dict]] = []

    def applies(self, module: Any) -> bool:
        return self.on

    def of_images(self, module: Any, batch: Batch, images: Sequence[int]) -> list[tuple[int, int]]:
        return [batch.sizes[image] for image in images]

    def say(self, what: str, counted: Counter[Any], module: Any) -> None:
        self.said.append((what, dict(counted)))


class Trainer:
    """What the callback asks of a trainer."""

    sanity_checking = False
    is_global_zero = True


def test_the_counts_of_all_ranks_are_summed_up(tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[Any], own: Any) -> None:
        parts[:] = [own, Counter({(64, 64): 5, (8, 8): 1}), Counter()]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    counts = Keys()
    counts.on_train_batch_end(Trainer(), object(), None, tiny_batch, 0)  # type: ignore[arg-type]
    counts.on_train_end(Trainer(), object())  # type: ignore[arg-type]
    counts.on_validation_end(Trainer(), object())  # type: ignore[arg-type]
    others = {(64, 64): 5, (8, 8): 1}
    assert counts.said == [("training", {(64, 64): 7, (8, 8): 1}), ("validation", others)]


def test_what_does_not_apply_asks_no_rank(tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: pytest.fail("no collective is needed"))
    counts = Keys(on=False)
    counts.on_validation_batch_end(Trainer(), object(), None, tiny_batch, 0)  # type: ignore[arg-type]
    counts.on_validation_end(Trainer(), object())  # type: ignore[arg-type]
    assert counts.said == []


def test_images_that_no_loop_learned_from_are_not_counted(tiny_batch: Batch) -> None:
    """The first image is left out, and padding is told by the batch's own numbers."""
    batch = replace(tiny_batch, sizes=[(8, 8), (64, 64)])
    for padding, expected in (((), {(64, 64): 1}), ((True, False), {(64, 64): 1}), ((False, True), {})):
        counts = Keys()
        module = SimpleNamespace(last_images=[1])
        counts.on_train_batch_end(Trainer(), module, None, replace(batch, padding=padding), 0)  # type: ignore[arg-type]
        counts.on_train_end(Trainer(), module)  # type: ignore[arg-type]
        assert counts.said == ([("training", expected)] if expected else [])
    tiling: Any = SimpleNamespace(decide=lambda height, width: (height, width))
    module = SimpleNamespace(model=SimpleNamespace(tiling_rule=tiling), last_images=[1])
    crops = VisionTokens()
    crops.on_train_batch_end(Trainer(), module, None, batch, 0)  # type: ignore[arg-type]
    assert crops._fit == {(64, 64): 1}


def test_frames_count_and_what_is_no_image_does_not(tiny_batch: Batch) -> None:
    """In the order of the encodings: the samples' first images, then every further frame."""
    sizes = [(64, 64), (8, 8)]
    batch = replace(tiny_batch, sizes=sizes, frames=tiny_batch.image1[:1], frame_owner=(1, 1), blank=(True, False))
    counts = Keys()
    counts.on_validation_batch_end(Trainer(), object(), None, batch, 0)  # type: ignore[arg-type]
    counts.on_validation_end(Trainer(), object())  # type: ignore[arg-type]
    assert counts.said == [("validation", {(8, 8): 3})]
    seen = SeenImages(2)
    module = SimpleNamespace(model=SimpleNamespace(tiling_rule=None), last_tokens=[(9, 9), (16, 16), (4, 4), (4, 4)])
    padded = replace(batch, padding=(False, False))
    seen.on_validation_batch_end(Trainer(), module, None, padded, 0)  # type: ignore[arg-type]
    assert seen.tokens == {16: 1, 4: 2} and seen.tilings == {(0, 0): 3}
