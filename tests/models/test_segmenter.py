"""The segmenter against `Sam2Model`'s own forward."""

from __future__ import annotations

import torch

from maskcap.data.batch import Batch
from maskcap.models.presets import tiny_sam2


def test_prompts_give_what_the_library_gives(tiny_batch: Batch) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8).eval()
    image = tiny_batch.image1
    points = torch.tensor([[[0.25, 0.5], [0.75, 0.25]], [[0.5, 0.5], [0.1, 0.9]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    features = segmenter.encode(image)
    logits = segmenter.decode(features, torch.tensor([0, 1]), segmenter.embed_points(points, labels))
    expected = segmenter.model(
        pixel_values=image, input_points=(points * 64)[:, None], input_labels=labels[:, None], multimask_output=False
    ).pred_masks[:, 0, 0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 0.5, 0.5]])
    logits = segmenter.decode(features, torch.tensor([0, 1]), segmenter.embed_boxes(boxes))
    expected = segmenter.model(pixel_values=image, input_boxes=(boxes * 64)[:, None], multimask_output=False).pred_masks
    torch.testing.assert_close(logits, expected[:, 0, 0], rtol=1e-4, atol=1e-4)


def test_dense_map_is_the_librarys_mask_prompt(tiny_batch: Batch) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8).eval()
    image = tiny_batch.image1
    mask = torch.randn(2, 16, 16)
    points, labels = torch.rand(2, 1, 2), torch.ones(2, 1, dtype=torch.int64)
    sparse = segmenter.embed_points(points, labels)
    logits = segmenter.decode(segmenter.encode(image), torch.tensor([0, 1]), sparse, mask)
    expected = segmenter.model(
        pixel_values=image,
        input_points=(points * 64)[:, None],
        input_labels=labels[:, None],
        input_masks=mask[:, None],
        multimask_output=False,
    ).pred_masks[:, 0, 0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_regions_of_one_image_share_its_features(tiny_batch: Batch) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8).eval()
    sparse = torch.randn(3, 1, 64)
    both = segmenter.decode(segmenter.encode(tiny_batch.image1), torch.tensor([1, 0, 1]), sparse)
    second = segmenter.decode(segmenter.encode(tiny_batch.image1[1:]), torch.tensor([0, 0]), sparse[[0, 2]])
    torch.testing.assert_close(both[[0, 2]], second, rtol=1e-4, atol=1e-4)
