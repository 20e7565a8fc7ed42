"""The segmenter against `Sam2Model`'s own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Sam2Model

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.models.presets import tiny_sam2
from maskcap.models.segmenter import Segmenter, SegmenterFeatures


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


def test_the_library_reads_the_same_weights_and_predicts_the_same(tiny_batch: Batch) -> None:
    """A model that no Segmenter has touched: what is left out of the neck changes no weight and no mask."""
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8).eval()
    library = Sam2Model(segmenter.model.config).eval()
    library.mask_decoder.dynamic_multimask_via_stability = False
    library.load_state_dict(segmenter.model.state_dict())
    points, labels = torch.rand(2, 3, 2), torch.ones(2, 3, dtype=torch.int64)
    sparse = segmenter.embed_points(points, labels)
    logits = segmenter.decode(segmenter.encode(tiny_batch.image1), torch.tensor([0, 1]), sparse)
    expected = library(
        pixel_values=tiny_batch.image1,
        input_points=(points * 64)[:, None],
        input_labels=labels[:, None],
        multimask_output=False,
    ).pred_masks[:, 0, 0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def features() -> SegmenterFeatures:
    """Two images' random features for image_size=64, hidden_size=64, as leaves."""
    generator = torch.Generator().manual_seed(1)

    def leaf(channels: int, side: int) -> torch.Tensor:
        return torch.randn(2, channels, side, side, generator=generator).requires_grad_()

    return SegmenterFeatures(leaf(64, 4), (leaf(8, 16), leaf(16, 8)))


@pytest.mark.parametrize("with_map", [False, True])
def test_chunks_give_the_same_logits_and_gradients_and_keep_less(
    features: SegmenterFeatures, with_map: bool, saved_bytes: Callable[..., Any]
) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8)
    decoder = [*segmenter.model.mask_decoder.parameters(), *segmenter.model.prompt_encoder.parameters()]
    region_image = torch.tensor([0, 0, 1, 0, 1])
    sparse, dense = torch.randn(5, 2, 64).requires_grad_(), torch.randn(5, 4, 4).requires_grad_()
    leaves = [features.embeddings, *features.high, sparse, dense, *decoder]

    def decode(chunk: int | None) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...], int]:
        segmenter.decode_chunk = chunk
        logits, kept = saved_bytes(
            lambda: segmenter.decode(features, region_image, sparse, dense if with_map else None)
        )
        gradients = torch.autograd.grad(logits.square().mean(), leaves, allow_unused=True)
        return logits.detach(), gradients, kept

    expected, wanted, all_kept = decode(None)
    for chunk in (1, 2, 4, 5, 9):
        logits, gradients, kept = decode(chunk)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
        for found, gradient in zip(gradients, wanted, strict=True):
            assert (found is None) == (gradient is None)
            if found is not None and gradient is not None:
                torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
        assert kept < 0.2 * all_kept if chunk < 5 else kept == all_kept
    with torch.no_grad():
        torch.testing.assert_close(
            segmenter.decode(features, region_image, sparse, dense if with_map else None), expected
        )


def test_a_chunk_of_no_regions_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"segmenter\.decode_chunk=0"):
        Segmenter(tiny_sam2(image_size=64, hidden_size=64, width=8).model, decode_chunk=0)


@pytest.mark.parametrize("trained", ["nothing", "no_memory_embedding", "vision_encoder.neck", "mask_decoder.conv_s0"])
def test_a_frozen_encoder_runs_without_autograd_and_what_trains_gets_its_gradient(
    tiny_batch: Batch, trained: str, saved_bytes: Callable[..., Any]
) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8)
    names = [name for name, _ in segmenter.model.named_parameters() if name.startswith(trained)]

    def gradients(maps: SegmenterFeatures) -> tuple[torch.Tensor, ...]:
        loss = torch.stack([m.sin().sum() for m in (maps.embeddings, *maps.high)]).sum()
        return torch.autograd.grad(loss, [segmenter.model.get_parameter(name) for name in names])

    expected = gradients(segmenter.encode(tiny_batch.image1)) if names else ()
    recorded: list[bool] = []
    segmenter.model.vision_encoder.backbone.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    for name, parameter in segmenter.model.named_parameters():
        parameter.requires_grad_(name in names)
    maps, kept = saved_bytes(lambda: segmenter.encode(tiny_batch.image1))
    assert recorded == [trained == "vision_encoder.neck"]
    assert (kept == 0) == (trained in ("nothing", "no_memory_embedding"))  # a sum needs nothing for its backward
    found = gradients(maps) if names else ()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_frozen_encoder_passes_gradient_to_an_image_that_asks_for_it(tiny_batch: Batch) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8).requires_grad_(False)
    image = tiny_batch.image1.clone().requires_grad_()
    segmenter.encode(image).embeddings.square().sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
