"""Packed trees against one sequence a segment: the same losses, gradients, logits and generated words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import Curriculum, Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.packing import Packing

WORDS = "red blue large small circle square cross at the top left of a thing which is zebra".split()


def random_batch(seed: int, images: int = 3, most: int = 5) -> Batch:
    """1 … `most` regions an image; captions of 0 … 8 words, some of them missing."""
    rng = np.random.default_rng(seed)
    region_image = [image for image in range(images) for _ in range(rng.integers(1, most + 1))]
    count = len(region_image)
    mask1 = torch.zeros(count, 64, 64)
    for r in range(count):
        (y, x), (h, w) = rng.integers(0, 50, 2), rng.integers(1, 40, 2)
        mask1[r, y : y + h, x : x + w] = 1

    def words() -> str | None:
        return None if rng.random() < 0.2 else " ".join(rng.choice(WORDS, rng.integers(0, 9)))

    caption, phrase = [words() for _ in range(count)], [words() for _ in range(count)]
    return Batch(
        image1=torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(seed)),
        mask1=mask1,
        region_image=torch.tensor(region_image),
        caption=caption,
        phrase=phrase,
        question=[None if rng.random() < 0.5 else " what is it" for _ in range(count)],
        references=[() for _ in range(count)],
        phrases=[() for _ in range(count)],
        region_ids=[str(r) for r in range(count)],
        keys=[f"set/train/{image}" for image in range(images)],
        sources=["set"] * images,
        sizes=[[(48, 48), (64, 32), (20, 32)][image % 3] for image in range(images)],  # 2×2, 3×1 and 1×1 crops
    )


def step(model: MaskCaptionModel, batch: Batch, packing: Packing, seed: int = 0, **curriculum: float) -> dict:
    """Losses by loop, gradients by parameter."""
    model.packing = packing
    model.zero_grad()
    loops: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask(answer_weight=1.0)}
    generator = torch.Generator().manual_seed(seed)
    context = StepContext(model.encode(batch.image1, batch.sizes), 1.0, Curriculum(**curriculum), generator)
    outputs = run_loops(model, loops, batch, context)
    torch.stack([output.loss for output in outputs.values()]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    logs = {f"{name}/{part}": value for name, output in outputs.items() for part, value in output.logs.items()}
    return {"losses": logs, "gradients": gradients, "work": context.encoded.work}


def assert_equal(one: dict, other: dict) -> None:
    """Relative 1e-4; a gradient's to the largest number of its tensor."""
    assert one["losses"].keys() == other["losses"].keys() and one["gradients"].keys() == other["gradients"].keys()
    for name, value in one["losses"].items():
        torch.testing.assert_close(other["losses"][name], value, rtol=1e-4, atol=1e-6, msg=name)
    largest = max(gradient.abs().max().item() for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        error = (other["gradients"][name] - gradient).abs().max().item()
        # below 1e-8 of the largest gradient of all there is only rounding
        assert error <= 1e-4 * max(gradient.abs().max().item(), 1e-4 * largest), (name, error, gradient.abs().max())


@pytest.mark.parametrize("seed", range(6))
def test_losses_and_gradients_of_a_tree_equal_those_of_single_sequences(seed: int, any_model: MaskCaptionModel) -> None:
    batch = random_batch(seed)
    assert_equal(step(any_model, batch, "none"), step(any_model, batch, "tree"))


@pytest.mark.parametrize("budget", [1, 60, 500])
def test_no_budget_changes_the_numbers(budget: int, any_model: MaskCaptionModel) -> None:
    batch = random_batch(11)
    reference = step(any_model, batch, "none")
    any_model.token_budget = budget
    assert_equal(reference, step(any_model, batch, "tree"))


def test_prefixes_without_the_image_stand_beside_those_with_it(any_model: MaskCaptionModel) -> None:
    batch = random_batch(12)
    kinds = set()
    for seed in range(12):  # each loop draws for itself whether its prompts hold the image's tokens
        tree = step(any_model, batch, "tree", seed, image_token_dropout=0.5)
        none = step(any_model, batch, "none", seed, image_token_dropout=0.5)
        assert_equal(none, tree)
        kinds.add(tree["work"].tokens)
    assert len(kinds) > 1


def test_without_a_grounding_map(tiny_model: MaskCaptionModel) -> None:
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, grounding=False)
    batch = random_batch(13)
    for curriculum in ({}, {"image_token_dropout": 1.0}):
        assert_equal(step(model, batch, "none", **curriculum), step(model, batch, "tree", **curriculum))


def test_logits_of_every_segment_are_equal(any_model: MaskCaptionModel) -> None:
    batch = random_batch(14)
    logits = {}
    for packing in ("none", "tree"):
        any_model.packing = packing
        encoded = any_model.encode(batch.image1, batch.sizes)
        regions, _ = any_model.region_tokens(encoded.tokens, batch.mask1, batch.region_image)
        images = batch.images_of(range(len(batch.region_ids)))
        captions = [caption or "" for caption in batch.caption]
        asked = [
            any_model.describe_questions(regions, images, batch.question, captions),
            any_model.phrase_questions(captions, images),
        ]
        readings = any_model.read(encoded, asked)
        vlm = any_model.vlm
        logits[packing] = [(vlm.head(r.answer_states), vlm.head(r.seg_states), r.answer_ids) for r in readings[:]]
    for none, tree in zip(logits["none"], logits["tree"], strict=True):
        assert torch.equal(none[2], tree[2])
        torch.testing.assert_close(tree[0], none[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tree[1], none[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_captions_generated_from_the_cache_equal_those_generated_one_at_a_time(
    seed: int, any_model: MaskCaptionModel
) -> None:
    batch, model = random_batch(20 + seed), any_model
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(30):  # random weights end every caption before its first word
        optimizer.zero_grad()
        MaskToCaption()(model, batch, StepContext(model.encode(batch.image1, batch.sizes))).loss.backward()
        optimizer.step()
    model.eval()
    model.max_new_tokens = 12
    asked = (batch.mask1, batch.region_image, batch.question)
    model.packing = "tree"
    together = model.generate_captions(model.encode(batch.image1, batch.sizes), *asked)
    assert len(set(together.texts)) > 1
    model.packing = "none"
    for r, image in enumerate(batch.region_image.tolist()):
        encoded = model.encode(batch.image1[image : image + 1], batch.sizes[image : image + 1])
        alone = model.generate_captions(encoded, batch.mask1[r : r + 1], torch.tensor([0]), batch.question[r : r + 1])
        assert (alone.texts, alone.truncated) == (together.texts[r : r + 1], together.truncated[r : r + 1])


def test_work_is_counted(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    batch = replace(tiny_batch, caption=["red", "red", None], phrase=["red", None, None])
    works = {packing: step(tiny_model, batch, packing)["work"] for packing in ("none", "tree")}
    # <img> 16 </img>; <|im_start|> <vp> n </vp> describe <|im_end|> red <|im_end|>;
    # <|im_start|> segment red <|im_end|> [SEG] <|im_end|>
    tree = works["tree"]
    regions = tiny_model.region_tokens(
        tiny_model.encode(batch.image1, batch.sizes).tokens, batch.mask1, batch.region_image
    )[0]
    describe, segment = [7 + count for count in regions.counts[:2]], 6
    assert tree.tokens == 2 * 18 + sum(describe) + segment
    assert tree.slots == 2 * (18 + sum(describe) + segment)
    own = sum(length * 18 + length * (length + 1) // 2 for length in [*describe, segment])
    assert tree.pairs == 2 * 18 * 19 // 2 + own
    # SAM2 sees the one image that has a phrase
    assert (tree.answers, tree.masks, tree.vlm_images, tree.sam_images) == (2 + 2 + 2, 1, 2, 1)
    # every segment reads the image again, and the grounding keys are read from prefixes of their own
    assert works["none"].tokens == tree.tokens + 3 * 18 and works["none"].answers == tree.answers
