"""Some of a batch's images once more, without gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskcap.models.mask_caption import MaskCaptionModel

SIZES = [(16, 32), (32, 32), (16, 16)]  # 8, 16 and 4 tokens of Qwen2-VL


def three_images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_frozen_images_have_the_same_tokens_without_gradient(any_model: MaskCaptionModel) -> None:
    encoded = any_model.encode(three_images(), SIZES)
    part = encoded.frozen([2, 0])
    assert encoded.tokens.features.requires_grad and not part.tokens.features.requires_grad
    assert part.sizes == [SIZES[2], SIZES[0]] and torch.equal(part.image1, encoded.image1[[2, 0]])
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


def test_qwens_frozen_images_are_cut_to_the_longest_of_them(qwen_model: MaskCaptionModel) -> None:
    encoded = qwen_model.encode(three_images(), SIZES)
    assert len(set(encoded.tokens.counts)) == 3
    part = encoded.frozen([2, 0])
    assert part.tokens.features.shape[1] == max(part.tokens.counts) < encoded.tokens.features.shape[1]
