"""The joined model: shapes, equality of batched and single calls, gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import StepContext
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.models.conversation import Conversation, Tokens, Words, qwen_conversation, token_ids
from maskcap.models.encoded import EncodedImages
from maskcap.models.gumbel import GumbelNoise, TokenChoice, forbidden_tokens
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.segments import Questions, RegionTokens


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


def as_embeddings(model: MaskCaptionModel, phrases: Sequence[str]) -> RegionTokens:
    """Those of the phrases' own tokens, as they stand behind a space."""
    vlm: Any = model.vlm
    rows = [token_ids(vlm.tokenizer, [Words(f" {phrase}")]) for phrase in phrases]
    return RegionTokens(vlm.embed(torch.tensor([token for row in rows for token in row])), [len(row) for row in rows])


@pytest.mark.parametrize("packing", ["tree", "none"])
@pytest.mark.parametrize("keep_image", [True, False])
@pytest.mark.parametrize(
    "kind, conversation",
    [
        ("tiny_model", None),
        ("tiny_model", Conversation()),
        ("tiled_model", None),
        ("qwen_model", None),
        ("qwen_model", qwen_conversation()),
        ("patches_model", qwen_conversation()),
    ],
)
def test_spoken_phrases_are_read_as_written_ones(
    kind: str,
    conversation: Conversation | None,
    keep_image: bool,
    packing: Any,
    tiny_batch: Batch,
    request: pytest.FixtureRequest,
) -> None:
    model: MaskCaptionModel = request.getfixturevalue(kind).eval()
    model.packing = packing
    if conversation is not None:
        model.vlm.conversation = conversation  # type: ignore[assignment]
    phrases, images = ["large red circle at the top left", "cross", "a zebra's [SEG]", "small"], [0, 0, 1, 0]
    sizes = [(48, 64), (64, 20)]
    encoded = model.encode(tiny_batch.image1, sizes)
    embeddings = as_embeddings(model, phrases)
    asked = model.phrase_questions(phrases, images, keep_image)
    (written,) = model.read(encoded, [replace(asked, image_states=False)])
    (spoken,) = model.read(encoded, [model.spoken_questions(embeddings, images, keep_image)])
    assert written.seg_states.shape == (4, 32)
    torch.testing.assert_close(spoken.seg_states, written.seg_states)
    assert not torch.allclose(spoken.seg_states[0], spoken.seg_states[3], atol=1e-2)
    (gradient,) = torch.autograd.grad(spoken.seg_states.pow(2).sum(), embeddings.features)
    assert (gradient.abs().sum(-1) > 0).all()


def test_spoken_phrases_give_the_images_states_too(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    tiny_model.eval()
    written, spoken = (tiny_model.encode(tiny_batch.image1) for _ in range(2))
    phrases, images = ["red circle", "cross"], [0, 1]
    tiny_model.read(written, [tiny_model.phrase_questions(phrases, images)])
    questions = tiny_model.spoken_questions(as_embeddings(tiny_model, phrases), images, image_states=True)
    tiny_model.read(spoken, [questions])
    assert "image_states" in vars(spoken)
    torch.testing.assert_close(spoken.image_states, written.image_states)


def describing(model: MaskCaptionModel, encoded: EncodedImages, batch: Batch) -> Questions:
    regions, _ = model.region_tokens(encoded.tokens, batch.mask1, batch.region_image)
    return model.describe_questions(regions, batch.region_image.tolist(), [None] * len(batch.region_ids))


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_generated_ids_are_the_texts_and_end_once(packing: Any, any_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    any_model.eval().packing = packing
    vlm: Any = any_model.vlm
    end = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.end)
    encoded = any_model.encode(tiny_batch.image1, tiny_batch.sizes)
    asked = describing(any_model, encoded, tiny_batch)

    def end_of_the_second(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.index_fill(1, torch.tensor(end), -1e9)
        scores[1, end] = 1e9 if ids.shape[1] == 2 else -1e9
        return scores

    said = any_model.generate(encoded, asked, 5, end_of_the_second)
    assert [len(ids) for ids in said.ids] == [5, 3, 5] and said.truncated == [True, False, True]
    assert [ids.count(end) for ids in said.ids] == [0, 1, 0] and said.ids[1][-1] == end
    assert said.texts == [vlm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said.ids]
    first = any_model.generate(encoded, asked, 1)
    assert [len(ids) for ids in first.ids] == [1, 1, 1]


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_a_rule_decides_what_is_taken(packing: Any, any_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    any_model.eval().packing = packing
    vlm: Any = any_model.vlm
    encoded = any_model.encode(tiny_batch.image1, tiny_batch.sizes)
    asked = describing(any_model, encoded, tiny_batch)
    greedy = any_model.generate(encoded, asked)
    assert any_model.generate(encoded, asked, rule=lambda ids, scores: scores) == greedy
    end, seen = vlm.tokenizer.convert_tokens_to_ids("<|im_end|>"), []

    def without_end(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert scores.shape == (3, vlm.embedding_weight.shape[0])
        seen.append(ids.tolist())
        return scores.index_fill(1, torch.tensor(end), -1e9)

    endless = any_model.generate(encoded, asked, 4, without_end)
    assert seen == [[ids[:step] for ids in endless.ids] for step in range(4)]  # new ids alone, from none on
    assert endless.truncated == [True] * 3

    forbidden = forbidden_tokens(vlm)
    choice = TokenChoice(forbidden, None, GumbelNoise(1, 3, forbidden.numel(), torch.device("cpu")))
    drawn = any_model.generate(encoded, asked, 6, choice)
    assert drawn == any_model.generate(encoded, asked, 6, choice) and drawn != greedy
    assert not forbidden[[token for ids in drawn.ids for token in ids]].any()
    red = vlm.tokenizer.convert_tokens_to_ids("Ġred")
    forced = any_model.generate(encoded, asked, 3, lambda ids, scores: scores.index_fill(1, torch.tensor(red), 1e9))
    assert forced.ids == [[red] * 3] * 3 and forced.texts == ["red red red"] * 3 and forced.truncated == [True] * 3


def test_the_models_own_captions_are_answers_without_being_read_again(
    tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    tiny_model.eval()
    vlm: Any = tiny_model.vlm
    encoded = tiny_model.encode(tiny_batch.image1)
    regions = describing(tiny_model, encoded, tiny_batch).regions
    assert regions is not None
    *letters, end = vlm.tokenizer.convert_tokens_to_ids(["r", "e", "d", "<|im_end|>"])
    captions = [Tokens((*letters, end)), "red", Tokens((end,))]
    (reading,) = tiny_model.read(encoded, [tiny_model.describe_questions(regions, [0, 0, 1], [None] * 3, captions)])
    red = vlm.tokenizer.convert_tokens_to_ids("Ġred")
    assert reading.answer_ids.tolist() == [*letters, end, red, end, end]
    assert reading.answer_states.shape == (7, 32)


def test_a_checkpoints_own_generation_settings_have_no_part(any_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """A rule that wants one word again and again gets it, where the checkpoint would forbid every repetition."""
    vlm: Any = any_model.eval().vlm
    vlm.model.generation_config.no_repeat_ngram_size = 1
    own, red = vlm.model.generation_config, vlm.tokenizer.convert_tokens_to_ids("Ġred")
    encoded = any_model.encode(tiny_batch.image1)
    regions, _ = any_model.region_tokens(encoded.tokens, tiny_batch.mask1, tiny_batch.region_image)
    asked = any_model.describe_questions(regions, [0, 0, 1], [None] * 3)

    def always_red(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor([red]), 1e4) + scores.masked_fill(scores > -torch.inf, 0)

    said = any_model.generate(encoded, asked, 3, always_red)
    assert said.ids == [[red] * 3] * 3 and vlm.model.generation_config is own
    options = {"max_new_tokens": 2, "logits_processor": [always_red], "do_sample": False}
    with pytest.warns(UserWarning, match="no_repeat_ngram_size"):
        bare = vlm.model.generate(inputs_embeds=vlm.embed(torch.tensor([[red]])), **options)
    assert bare[0].tolist() != [red] * 2  # the library alone obeys the checkpoint
