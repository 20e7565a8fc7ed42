"""Some of a batch's images once more, without gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskcap.models.encoded import EncodedImages
from maskcap.models.mask_caption import MaskCaptionModel

SIZES = [(16, 32), (32, 32), (16, 16)]  # 8, 16 and 4 tokens of Qwen2-VL


def three_images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_frozen_images_have_the_same_tokens_without_gradient(any_model: MaskCaptionModel) -> None:
    encoded = any_model.encode(three_images(), SIZES)
    part = encoded.frozen([2, 0])
    assert encoded.tokens.features.requires_grad and not part.tokens.features.requires_grad
    assert part.sizes == [SIZES[2], SIZES[0]] and torch.equal(part.images, encoded.images[[2, 0]])
    assert part.tokens.counts == [encoded.tokens.counts[2], encoded.tokens.counts[0]]
    longest = max(part.tokens.counts)
    assert part.tokens.features.shape[1] == longest and part.tokens.grid == encoded.tokens.grid
    for row, image in enumerate([2, 0]):
        count = part.tokens.counts[row]
        assert part.tokens.layouts[row] is encoded.tokens.layouts[image]
        assert torch.equal(part.tokens.features[row, :count], encoded.tokens.features[image, :count])
        if encoded.tokens.boxes is not None:
            assert part.tokens.boxes is not None and part.tokens.valid is not None
            assert torch.equal(part.tokens.boxes[row, :count], encoded.tokens.boxes[image, :count])
            assert part.tokens.valid[row].sum() == count
    assert encoded.work.vlm_images > 0 and part.work.vlm_images == 0
    alone = any_model.encode(three_images(), None).frozen([1])
    assert alone.sizes is None and alone.tokens.features.shape[0] == 1


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_a_few_frozen_images_read_as_all_do(any_model: MaskCaptionModel, packing: Any) -> None:
    any_model.eval().packing = packing
    encoded = any_model.encode(three_images(), SIZES)
    phrases = ["red circle", "cross", "blue", "a large square"]
    (whole,) = any_model.read(encoded, [any_model.phrase_questions(phrases, [2, 0, 2, 2])])
    part = encoded.frozen([0, 2])
    (few,) = any_model.read(part, [any_model.phrase_questions(phrases, [1, 0, 1, 1])])
    torch.testing.assert_close(few.seg_states, whole.seg_states)
    for row, image in enumerate([0, 2]):
        count = part.tokens.counts[row]
        torch.testing.assert_close(part.image_states[row, :count], encoded.image_states[image, :count])
        torch.testing.assert_close(part.keys[row, :count], encoded.keys[image, :count])
    mask1 = torch.zeros(2, 32, 32)
    mask1[0, 4:20, 2:20] = mask1[1, 20:, 9:] = 1
    regions, _ = any_model.region_tokens(encoded.tokens, mask1, torch.tensor([2, 0]))
    few_regions, _ = any_model.region_tokens(part.tokens, mask1, torch.tensor([1, 0]))
    assert regions.counts == few_regions.counts and torch.equal(regions.features, few_regions.features)


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_frozen_prefixes_show_their_images(any_model: MaskCaptionModel, packing: Any) -> None:
    """Images 0, 3 and 4 in the first prefix, 1 in the second, 2 and 5 in the third."""
    any_model.eval().packing = packing
    images, sizes = torch.cat([three_images(), three_images() + 1]), SIZES + SIZES[::-1]
    encoded = any_model.encode(images, sizes, [(0, 3, 4), (1,), (2, 5)])
    part = encoded.frozen([2, 0])
    assert part.groups == part.tokens.groups == ((0, 2), (1, 3, 4))
    assert torch.equal(part.images, images[[2, 0, 5, 3, 4]]) and not part.tokens.features.requires_grad
    assert part.sizes == [sizes[image] for image in (2, 0, 5, 3, 4)]
    phrases = ["red circle", "cross", "blue"]
    (whole,) = any_model.read(encoded, [any_model.phrase_questions(phrases, [2, 0, 2])])
    (few,) = any_model.read(part, [any_model.phrase_questions(phrases, [0, 1, 0])])
    torch.testing.assert_close(few.seg_states, whole.seg_states, rtol=1e-4, atol=1e-5)
    for row, image in enumerate([2, 0, 5, 3, 4]):
        count = part.tokens.counts[row]
        torch.testing.assert_close(part.keys[row, :count], encoded.keys[image, :count], rtol=1e-4, atol=1e-4)


def masks_of(encoded: EncodedImages, images: list[int]) -> torch.Tensor:
    """Logits of as many phrases, without saying before what is wanted."""
    model, phrases = encoded.model, ["red circle", "cross", "blue"][: len(images)]
    (reading,) = model.read(encoded, [model.phrase_questions(phrases, images)])
    grounding_map = model.ground(encoded, reading.seg_states, torch.tensor(images))
    return model.mask_logits(encoded, reading.seg_states, torch.tensor(images), grounding_map)


@pytest.mark.parametrize("wanted", [[[2, 0]], [[0], [2]], [[0, 1, 2]], [[]]])
def test_masks_of_wanted_images_are_those_of_all(any_model: MaskCaptionModel, wanted: list[list[int]]) -> None:
    any_model.eval()
    expected = masks_of(any_model.encode(three_images(), SIZES), [2, 0, 2])
    encoded = any_model.encode(three_images(), SIZES)
    for each in wanted:
        encoded.want_masks(each)
    found = masks_of(encoded, [2, 0, 2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.std().item())
    rows = encoded.segmenter.rows
    if wanted in ([[0, 1, 2]], [[]]):
        assert rows is None and encoded.work.sam_images == 3 and torch.equal(found, expected)
    else:
        assert rows is not None and rows.tolist() == [0, -1, 1] and encoded.work.sam_images == 2


def test_an_image_that_nobody_wanted_has_no_mask(tiny_model: MaskCaptionModel) -> None:
    encoded = tiny_model.eval().encode(three_images())
    expected = masks_of(tiny_model.encode(three_images()), [2, 0, 2])
    encoded.want_masks([2])
    masks_of(encoded, [2])
    with pytest.raises(IndexError):
        masks_of(encoded, [2, 0, 2])
    encoded.want_masks([2, 0])  # as a later loop does: one more is encoded
    late = masks_of(encoded, [2, 0, 2])
    torch.testing.assert_close(late, expected, rtol=1e-4, atol=1e-5 * expected.std().item())
    assert encoded.work.sam_images == 2


def test_qwens_frozen_images_are_cut_to_the_longest_of_them(qwen_model: MaskCaptionModel) -> None:
    encoded = qwen_model.encode(three_images(), SIZES)
    assert len(set(encoded.tokens.counts)) == 3
    part = encoded.frozen([2, 0])
    assert part.tokens.features.shape[1] == max(part.tokens.counts) < encoded.tokens.features.shape[1]
