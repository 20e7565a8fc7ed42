"""Crops on the device: the pixels that each view holds, and tokens that do not depend on the rest of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD, Batch
from maskcap.errors import SequenceTooLongError
from maskcap.loops.base import StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.crops import cut_views, encode_crops
from maskcap.models.grounding import NOWHERE
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.region_prompt import Pool
from maskcap.models.token_coverage import fill_unseen, select_tokens
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.settings import Tiling
from maskcap.vision_tokens.tiling import fit

GEOMETRY = Geometry(crop=32, patch=4, margins=(2, 2), pool=2)  # the tiny model's: 4 × 4 tokens a view
MARGINS = (2, 2)


def test_views_hold_the_pixels_of_their_place_on_the_canvas() -> None:
    image = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    tilings = [(2, 1), (1, 1)]
    fits = [fit(90, 60, GEOMETRY.canvas(2, 1)), fit(50, 50, GEOMETRY.canvas(1, 1))]
    views = cut_views(image, fits, tilings, GEOMETRY)
    assert views.shape == (1 + 2 + 1 + 1, 3, 32, 32)
    whole = F.interpolate(image, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(views[0], whole[0])
    torch.testing.assert_close(views[3], whole[1])
    torch.testing.assert_close(views[4], whole[1])  # a square on one crop
    assert (fits[0].height, fits[0].width, fits[0].top, fits[0].left) == (48, 32, 0, 0)
    canvas = F.interpolate(image[:1], (48, 32), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(views[1], canvas[:, :32])
    torch.testing.assert_close(views[2], canvas[:, 16:])


def test_what_the_image_leaves_of_the_canvas_is_black() -> None:
    image = torch.zeros(1, 3, 40, 40)
    placed = fit(40, 80, (32, 32))
    (view,) = cut_views(image, [placed], [(1, 1)], GEOMETRY, global_view=False)
    assert (placed.height, placed.width, placed.top, placed.left) == (16, 32, 8, 0)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = view * std + mean
    torch.testing.assert_close(pixels[:, 8:24], mean.expand(3, 16, 32))
    torch.testing.assert_close(pixels[:, :8], torch.zeros(3, 8, 32), atol=1e-6, rtol=0)
    torch.testing.assert_close(pixels[:, 24:], torch.zeros(3, 8, 32), atol=1e-6, rtol=0)


def test_each_view_is_encoded_once_and_alone(tiled_model: MaskCaptionModel) -> None:
    vlm: Any = tiled_model.vlm.eval()
    image = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sizes, tilings = [(48, 48), (64, 32), (32, 32)], [(2, 2), (3, 1), (1, 1)]
    seen: list[int] = []
    tower = vlm.model.model.vision_tower
    handle = tower.register_forward_hook(lambda _, inputs, output: seen.append(output.last_hidden_state.shape[0]))
    tokens = encode_crops(vlm, image, sizes, tilings, GEOMETRY)
    handle.remove()
    assert seen == [5 + 4 + 2] and tokens.counts == [16 + 36, 16 + 8 * 4, 16 + 16]
    assert tokens.valid is not None and tokens.valid.sum(1).tolist() == tokens.counts
    for i, count in enumerate(tokens.counts):
        alone = encode_crops(vlm, image[i : i + 1], sizes[i : i + 1], tilings[i : i + 1], GEOMETRY)
        torch.testing.assert_close(tokens.features[i, :count], alone.features[0])
        single = vlm.encode_image(image[i : i + 1]).features[0]
        torch.testing.assert_close(tokens.features[i, :16], single)  # the global view


def test_tokens_stand_where_their_boxes_say(tiled_model: MaskCaptionModel) -> None:
    """Each kept token is that of its crop, encoded alone, at the place that its box has in the crop."""
    vlm: Any = tiled_model.vlm.eval()
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    tokens = encode_crops(vlm, image, [(48, 48)], [(2, 2)], GEOMETRY)
    (layout,) = tokens.layouts
    for t in range(16, len(layout)):
        row, column = divmod(int(layout.crop[t]) - 1, 2)
        view = image[:, :, 16 * row : 16 * row + 32, 16 * column : 16 * column + 32]
        top, left = ((layout.boxes[t, :2] * 48).round().int() - torch.tensor([16 * row, 16 * column])).tolist()
        expected = vlm.encode_views(view)[0, top // 8, left // 8]
        torch.testing.assert_close(tokens.features[0, t], expected)


def test_one_crop_without_a_global_view_is_the_single_view(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    tiling = Tiling(max_crops=1, margins=MARGINS, global_view=False)
    tiled = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, grounding=True, vision_tokens=tiling)
    tiled.load_state_dict(tiny_model.state_dict())
    both = []
    for model in (tiny_model.eval(), tiled.eval()):
        context = StepContext(model.encode(tiny_batch.image1, tiny_batch.sizes))
        loops = {"m2c": MaskToCaption(), "c2m": CaptionToMask()}
        outputs = run_loops(model, loops, tiny_batch, context)
        logits = model.segment(tiny_batch.image1, ["red", "blue"], sizes=tiny_batch.sizes)
        both.append([*(output.loss for output in outputs.values()), logits, context.encoded.tokens.features])
    for single, crops in zip(*both, strict=True):
        assert torch.equal(single, crops)


def test_an_image_with_too_many_tokens_is_named_with_its_crops(tiled_model: MaskCaptionModel) -> None:
    tiled_model.max_length = 58
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(SequenceTooLongError, match=r"phrase 'red': 60 tokens .* 58\. Its 2 × 2 crops cost 52 tokens"):
        tiled_model.segment(image, ["red"], sizes=[(48, 48)])
    tiled_model.segment(image, ["red"], sizes=[(48, 32)])


def test_a_step_on_crops_encodes_each_view_once(tiled_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    sizes = [(48, 48), (64, 32)]
    context = StepContext(tiled_model.encode(tiny_batch.image1, sizes))
    outputs = run_loops(tiled_model, {"m2c": MaskToCaption(), "c2m": CaptionToMask()}, tiny_batch, context)
    torch.stack([output.loss for output in outputs.values()]).sum().backward()
    assert context.encoded.work.vlm_images == 5 + 4
    assert context.encoded.work.sam_images == 1  # the last image has no phrase
    assert all(torch.isfinite(p.grad).all() for p in tiled_model.parameters() if p.grad is not None)


@pytest.mark.parametrize("pool", ["nearest", "area", "any"])
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (48, 48)])
def test_without_a_global_view_an_image_may_fill_its_crops(
    size: tuple[int, int], pool: Pool, tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    """The kept tokens are then a grid over the image, which is square or not."""
    tiling = Tiling(pool=pool, max_crops=4, margins=MARGINS, global_view=False)
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, True, tiling, max_new_tokens=2)
    tokens = model.encode_image(tiny_batch.image1, [size] * 2)
    assert tokens.layouts[0].grid == (size[0] // 8, size[1] // 8) and (tokens.boxes is None) == (size[0] == size[1])
    regions, _ = model.region_tokens(tokens, tiny_batch.mask1, tiny_batch.region_image)
    boxes = tokens.layouts[0].boxes.expand(3, -1, -1)
    selected, _ = fill_unseen(select_tokens(tiny_batch.mask1, boxes, pool), tiny_batch.mask1, boxes)
    assert regions.counts == selected.sum(1).tolist()
    context = StepContext(model.encode(tiny_batch.image1, [size] * 2))
    for output in run_loops(model, {"m2c": MaskToCaption(), "c2m": CaptionToMask()}, tiny_batch, context).values():
        assert torch.isfinite(output.loss)


SIZES = [(48, 48), (64, 32), (20, 32), (32, 48)]  # 2×2, 3×1, 1×1 with padding, 1×2 crops


def test_an_image_does_not_depend_on_those_beside_it(tiled_model: MaskCaptionModel) -> None:
    """Mask logits, grounding map and losses of images with other numbers of tokens: together as alone."""
    model = tiled_model.eval()
    generator = torch.Generator().manual_seed(0)
    image1 = torch.randn(4, 3, 64, 64, generator=generator)
    mask1 = (torch.rand(4, 4, 4, generator=generator) > 0.5).float().repeat_interleave(16, 1).repeat_interleave(16, 2)
    phrases = ["red circle", "blue cross", "a thing", "large square"]
    batch = batch_of(image1, mask1, phrases)
    together = model.segment(image1, phrases, sizes=SIZES)
    loop = CaptionToMask(contrast_weight=0.0)  # the contrast is between the batch's regions
    whole = loop(model, batch, StepContext(model.encode(image1, SIZES))).logs
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in whole}
    for i in range(4):
        alone = model.segment(image1[i : i + 1], phrases[i : i + 1], sizes=SIZES[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)
        one = batch_of(image1[i : i + 1], mask1[i : i + 1], phrases[i : i + 1])
        context = StepContext(model.encode(one.image1, SIZES[i : i + 1]))
        for name, value in loop(model, one, context).logs.items():
            parts[name].append(value)
    for name in ("grounding", "mask_ce", "mask_dice"):
        torch.testing.assert_close(whole[name], torch.stack(parts[name]).mean(), rtol=1e-4, atol=1e-5)


def test_a_map_of_the_tokens_is_laid_out_where_they_look(tiled_model: MaskCaptionModel) -> None:
    image1 = torch.randn(4, 3, 64, 64)
    encoded = tiled_model.encode(image1, SIZES)
    values = torch.rand(3, max(encoded.tokens.counts))
    region_image = torch.tensor([3, 0, 2])
    laid_out = encoded.as_map(values, region_image)
    side = tiled_model.segmenter.mask_size
    assert laid_out.shape == (3, side, side)
    for region, image in enumerate(region_image.tolist()):
        boxes = encoded.tokens.layouts[image].boxes.double()
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for y in range(side):
            for x in range(side):
                row, column = (y + 0.5) / side, (x + 0.5) / side
                around = (boxes[:, 0] <= row) & (row < boxes[:, 2]) & (boxes[:, 1] <= column) & (column < boxes[:, 3])
                assert laid_out[region, y, x] == values[region, area.where(around, torch.inf).argmin()]


def test_padding_is_nowhere_on_the_grounding_map(tiled_model: MaskCaptionModel) -> None:
    model = tiled_model.eval()
    encoded = model.encode(torch.randn(4, 3, 64, 64), SIZES)
    (reading,) = model.read(encoded, [model.phrase_questions(["a"] * 4, range(4))])
    found = model.ground(encoded, reading.seg_states, torch.arange(4))
    assert found is not None
    for row, count in zip(found, encoded.tokens.counts, strict=True):
        assert (row[count:] == NOWHERE).all() and (row[:count] > NOWHERE).all()


def batch_of(image1: torch.Tensor, mask1: torch.Tensor, phrases: list[str]) -> Batch:
    """One region an image."""
    count = len(phrases)
    return Batch(
        image1=image1,
        mask1=mask1,
        region_image=torch.arange(count),
        caption=[None] * count,
        phrase=list(phrases),
        question=[None] * count,
        references=[()] * count,
        phrases=[(phrase,) for phrase in phrases],
        region_ids=[str(i) for i in range(count)],
        keys=[f"set/train/{i}" for i in range(count)],
        sources=["set"] * count,
        sizes=[(64, 64)] * count,
    )
