"""Images of which no loop learns are left out of a step, and what is left learns the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.regions import draw_batch
from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.used_images import only_images, used_images

WORDS: list[Loop] = [MaskToCaption(), CaptionToMask()]


@pytest.fixture
def half() -> Batch:
    """Three images of two regions, of which the first has no words, and the last a phrase for its second alone."""
    batch = draw_batch(3, 2, 64)
    known = [False, False, True, True, False, True]
    caption = [text if has else None for text, has in zip(batch.caption, known, strict=True)]
    other = draw_batch(3, 2, 64, seed=3)
    return replace(
        batch,
        caption=caption,
        phrase=list(caption),
        image2=other.image1,
        mask2=other.mask1,
        padding=(True, False, True),
    )


def test_which_images_are_used(half: Batch) -> None:
    assert used_images(half, WORDS, 0.0) == [1, 2]
    assert used_images(half, [*WORDS, Cycle(start=0.5)], 0.4) == [1, 2]
    assert used_images(half, [*WORDS, Cycle(start=0.5)], 0.5) == [0, 1, 2]
    assert used_images(half, [PromptToMask()], 0.0) == [0, 1, 2]
    blank: list[str | None] = [None] * 6
    assert used_images(replace(half, caption=blank, phrase=blank), WORDS, 0.0) == []
    assert only_images(half, [0, 1, 2]) is half and only_images(half, []) is half


def test_everything_of_an_image_goes_with_it(half: Batch) -> None:
    part = only_images(half, [0, 2])
    rows = [0, 1, 4, 5]
    assert part.image2 is not None and part.mask2 is not None and half.image2 is not None and half.mask2 is not None
    assert torch.equal(part.image1, half.image1[[0, 2]]) and torch.equal(part.image2, half.image2[[0, 2]])
    assert torch.equal(part.mask1, half.mask1[rows]) and torch.equal(part.mask2, half.mask2[rows])
    assert part.region_image.tolist() == [0, 0, 1, 1] and part.host_region_image == (0, 0, 1, 1)
    assert part.padding == (True, True) and part.keys == [half.keys[0], half.keys[2]]
    for name in ("caption", "phrase", "question", "references", "phrases", "region_ids"):
        assert getattr(part, name) == [getattr(half, name)[row] for row in rows], name
    assert len(part.sizes) == len(part.sources) == 2


def test_losses_are_those_of_the_whole_batch(tiny_model: MaskCaptionModel, half: Batch) -> None:
    found = []
    for batch in (half, only_images(half, used_images(half, WORDS, 0.0))):
        context = StepContext(tiny_model.encode(batch.image1), generator=torch.Generator().manual_seed(0))
        outputs = run_loops(tiny_model, {"m2c": WORDS[0], "c2m": WORDS[1]}, batch, context)
        found.append({name: output.loss for name, output in outputs.items()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
