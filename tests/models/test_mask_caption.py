"""The joined model: shapes, equality of batched and single calls, gradients."""

from __future__ import annotations

import warnings

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import StepContext
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.models.mask_caption import MaskCaptionModel


def test_describe_and_segment_shapes(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    tiny_model.eval()
    captions = tiny_model.describe(tiny_batch.image1, tiny_batch.mask1, tiny_batch.region_image)
    assert len(captions) == 3 and all(isinstance(caption, str) for caption in captions)
    logits = tiny_model.segment(tiny_batch.image1, ["red circle", "cross"])
    assert logits.shape == (2, 8, 8) and logits.dtype == torch.float32


def test_captions_without_an_end_are_marked_as_cut(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    asked = (tiny_batch.mask1, tiny_batch.region_image)
    said = tiny_model.eval().generate_captions(tiny_model.encode(tiny_batch.image1), *asked)
    assert said.texts == tiny_model.describe(tiny_batch.image1, tiny_batch.mask1, tiny_batch.region_image)
    end = tiny_model.vlm.tokenizer.convert_tokens_to_ids(tiny_model.vlm.conversation.end)
    generate = tiny_model.vlm.model.generate

    def rows(**_: object) -> torch.Tensor:
        return torch.tensor([[9, end, 0, 0], [9, 9, 9, 9], [9, 9, 9, end]])

    tiny_model.vlm.model.generate = rows
    said = tiny_model.generate_captions(tiny_model.encode(tiny_batch.image1), *asked)
    tiny_model.vlm.model.generate = generate
    assert said.truncated == [False, True, False]


def test_regions_without_images_must_match(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    with pytest.raises(ValueError, match="region_image"):
        tiny_model.segment(tiny_batch.image1, ["red circle", "cross", "square"])


def test_batched_calls_equal_single_ones(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    tiny_model.eval()
    batch = tiny_batch
    phrases = ["large red circle at the top left", "cross", "a thing"]
    together = tiny_model.segment(batch.image1, phrases, batch.region_image)
    captions = tiny_model.describe(batch.image1, batch.mask1, batch.region_image)
    for r, image in enumerate(batch.region_image.tolist()):
        alone = tiny_model.segment(batch.image1[image : image + 1], phrases[r : r + 1])
        torch.testing.assert_close(alone[0], together[r], rtol=1e-3, atol=1e-4)
        assert tiny_model.describe(batch.image1[image : image + 1], batch.mask1[r : r + 1]) == [captions[r]]


def test_every_part_is_reached_by_the_mask_logits(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    encoded = tiny_model.encode(tiny_batch.image1)
    (read,) = tiny_model.read(encoded, [tiny_model.phrase_questions(["red circle", "cross"], [0, 1])])
    region_image = torch.tensor([0, 1])
    grounding_map = tiny_model.ground(encoded, read.seg_states, region_image)
    logits = tiny_model.mask_logits(encoded, read.seg_states, region_image, grounding_map)
    logits.pow(2).sum().backward()
    for name in ("vlm.model.model.vision_tower", "vlm.model.model.multi_modal_projector", "seg_mlp", "grounding"):
        part = tiny_model.get_submodule(name)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), name
    for name in ("segmenter.model.vision_encoder", "segmenter.model.mask_decoder", "segmenter.model.prompt_encoder"):
        part = tiny_model.get_submodule(name)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), name
    assert tiny_model.region_marker.grad is None


def test_without_grounding_there_is_no_map(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    plain = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, grounding=False)
    assert plain.grounding is None
    assert plain.segment(tiny_batch.image1, ["a", "b"]).shape == (2, 8, 8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"packing": "Tree"}, "packing='Tree': expected tree or none"),
        ({"token_budget": 0}, "token_budget=0: take at least 1"),
        ({"token_budget": 500, "packing": "none"}, "token_budget=500 needs packing=tree"),
    ],
)
def test_packing_that_is_none_is_refused(options: dict, message: str, tiny_model: MaskCaptionModel) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, **options)


def test_nothing_asked_is_nothing_said(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert tiny_model.describe(tiny_batch.image1, tiny_batch.mask1[:0], nothing) == []
    assert tiny_model.segment(tiny_batch.image1, [], nothing).shape == (0, 8, 8)


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_a_model_in_training_with_checkpointing_describes_too(
    packing: str, tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    asked = (tiny_batch.image1, tiny_batch.mask1, tiny_batch.region_image)
    expected = tiny_model.train().describe(*asked)
    options = {"packing": packing, "activation_checkpointing": ["language_model"], "max_new_tokens": 4}
    model = MaskCaptionModel(tiny_model.vlm, tiny_model.segmenter, grounding=True, **options)  # type: ignore[arg-type]
    model.load_state_dict(tiny_model.state_dict())
    assert model.describe(*asked) == expected
    context = StepContext(model.encode(tiny_batch.image1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "caching is incompatible with gradient checkpointing"
        loss = CaptionToMask()(model, tiny_batch, context).loss
    loss.backward()
    assert all(block.gradient_checkpointing for block in model.vlm.language_model.layers)
