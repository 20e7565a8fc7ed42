"""Prefixes that show several images: against Hugging Face's own forward, and in everything that goes on from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.segments import Questions, one_turn
from maskcap.models.sequence import build_sequences
from tests.models.images import GROUPS, SIZES, boxes, four_images, ids_by_hand


@pytest.mark.parametrize("name", ["tiny_model", "tiled_model", "qwen_model"])
def test_states_are_those_of_the_stock_forward(name: str, request: pytest.FixtureRequest) -> None:
    model: MaskCaptionModel = request.getfixturevalue(name).eval()
    vlm: Any = model.vlm
    tokens = model.encode(four_images(), SIZES, GROUPS).tokens
    words = "<|im_start|> segment red circle<|im_end|>"
    rows = build_sequences(vlm, Questions([one_turn(image, words) for image in (0, 1)]), tokens, packing="none")
    ours = vlm.hidden_states(rows)
    slot = vlm.tokenizer.convert_tokens_to_ids(vlm.conversation.image_slot)
    for row, group in enumerate(GROUPS):
        counts = [tokens.counts[image] for image in group]
        ids = torch.tensor([ids_by_hand(vlm, counts, words)])
        embeds = vlm.model.get_input_embeddings()(ids)
        embeds[ids == slot] = torch.cat([tokens.features[image, : tokens.counts[image]] for image in group])
        positions = torch.arange(ids.shape[1])[None]
        if name == "qwen_model":
            grids = [[1, *(2 * cells for cells in tokens.layouts[image].grid or ())] for image in group]
            kinds = (ids == slot).int()
            positions, _ = vlm.model.model.get_rope_index(ids, kinds, image_grid_thw=torch.tensor(grids))
        assert torch.equal(rows.position_ids[..., row, : ids.shape[1]], positions.squeeze(-2))
        stock = vlm.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state[0]
        torch.testing.assert_close(ours[row, : ids.shape[1]], stock, rtol=1e-4, atol=1e-5)
        assert not rows.attention[row, ids.shape[1] :].any()  # type: ignore[index]


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_every_images_states_are_read_in_its_prefix(any_model: MaskCaptionModel, packing: Any) -> None:
    any_model.eval().packing = packing
    encoded = any_model.encode(four_images(), SIZES, GROUPS)
    phrases, images = ["red circle", "cross", "blue"], [0, 1, 0]
    any_model.read(encoded, [any_model.phrase_questions(phrases, images)])
    states, keys = encoded.image_states, encoded.keys
    assert states.shape == encoded.tokens.features.shape == (4, *states.shape[1:])
    shown = any_model.encode(four_images(), SIZES, GROUPS)
    before = shown.prefix  # a reading of its own, left-padded
    assert before.mask.shape[0] == 2
    for image, count in enumerate(encoded.tokens.counts):
        torch.testing.assert_close(states[image, :count], before.states[image, :count], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(keys[image, :count], shown.keys[image, :count], rtol=1e-4, atol=1e-5)
    alone = any_model.encode(four_images(), SIZES).image_states
    torch.testing.assert_close(states[:2, :4], alone[:2, :4], rtol=1e-4, atol=1e-5)  # nothing stands before these
    assert not torch.allclose(states[2, :4], alone[2, :4], rtol=1e-2, atol=1e-3)  # a frame has images before it


def test_a_mask_of_each_frame_by_one_phrase(any_model: MaskCaptionModel) -> None:
    any_model.eval()
    found = {}
    for packing in ("tree", "none"):
        any_model.packing = packing
        encoded = any_model.encode(four_images(), SIZES, GROUPS)
        (reading,) = any_model.read(encoded, [any_model.phrase_questions(["red circle", "cross"], [0, 1])])
        states, region_image = reading.seg_states[[0, 0, 0, 1]], torch.tensor([0, 2, 3, 1])
        grounding_map = any_model.ground(encoded, states, region_image)
        found[packing] = any_model.mask_logits(encoded, states, region_image, grounding_map)
    scale = found["none"].std().item()
    torch.testing.assert_close(found["tree"], found["none"], rtol=1e-4, atol=1e-4 * scale)
    assert (found["tree"][0] - found["tree"][1]).abs().max() > 1e-3 * scale


def test_a_frames_regions_have_its_tokens(any_model: MaskCaptionModel) -> None:
    encoded = any_model.encode(four_images(), SIZES, GROUPS)
    mask1 = boxes((4, 2, 20, 20), (4, 2, 20, 20))
    regions, _ = any_model.region_tokens(encoded.tokens, mask1, torch.tensor([3, 0]))
    alone = any_model.encode(four_images()[3:], SIZES[3:])
    expected, _ = any_model.region_tokens(alone.tokens, mask1[:1], torch.tensor([0]))
    assert regions.counts[:1] == expected.counts
    torch.testing.assert_close(regions.features[: expected.counts[0]], expected.features, rtol=1e-4, atol=1e-5)
    covered = any_model.coverage(encoded.tokens, mask1, torch.tensor([3, 0]))
    count = len(alone.tokens.layouts[0])
    torch.testing.assert_close(
        covered[:1, :count], any_model.coverage(alone.tokens, mask1[:1], torch.tensor([0]))[:, :count]
    )


@pytest.mark.parametrize("kept", [(True, True), (True, False), (False, False)])
def test_generation_from_the_cache_is_generation_of_the_whole(
    any_model: MaskCaptionModel, kept: tuple[bool, bool]
) -> None:
    any_model.eval()
    end = any_model.vlm.tokenizer.convert_tokens_to_ids(any_model.vlm.conversation.end)

    def endless(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Random weights would end every answer at once."""
        return logits.index_fill(1, torch.tensor([end]), float("-inf"))

    found = {}
    for packing in ("tree", "none"):
        any_model.packing = packing
        encoded = any_model.encode(four_images(), SIZES, GROUPS)
        regions, _ = any_model.region_tokens(
            encoded.tokens, boxes((4, 2, 20, 20), (9, 9, 30, 30)), torch.tensor([2, 1])
        )
        asked = [
            any_model.describe_questions(regions, [0, 1], [None, " what is it"], keep_image=keep).segments[row]
            for row, keep in enumerate(kept)
        ]
        found[packing] = any_model.generate(encoded, Questions(asked, regions), 6, endless)
        assert ("prefix" in encoded.__dict__) == (packing == "tree" and all(kept))
    assert found["tree"].ids == found["none"].ids and [len(ids) for ids in found["tree"].ids] == [6, 6]


def test_without_its_images_a_prefix_is_text_alone(tiny_model: MaskCaptionModel) -> None:
    encoded = tiny_model.encode(four_images(), SIZES, GROUPS)
    questions = Questions([one_turn(0, "<|im_start|> red", " circle", keep_image=False)])
    rows = build_sequences(tiny_model.vlm, questions, encoded.tokens, packing="none")  # type: ignore[arg-type]
    # <img> </img> <|im_start|> red | circle <|im_end|>
    assert rows.position_ids.tolist() == [[*range(6)]] and rows.answer_positions.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([(1,), (0,)], "prefix p shows image p first"),
        ([(0, 2)], "every image is in one of them"),
        ([(0, 2, 3), (1, 3)], "every image is in one of them"),
        ([(0, 1, 2, 3), ()], "prefix p shows image p first"),
    ],
)
def test_groups_that_leave_images_out_are_refused(groups: Any, said: str, tiny_model: MaskCaptionModel) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_model.encode(four_images(), SIZES, groups)
