"""The grounding head's keys with and without where each token looks."""

from __future__ import annotations

import math

import pytest
import torch

from maskcap.models.grounding import GroundingHead, waves
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.vision_tokens.layout import grid_layout


def test_waves_are_those_of_the_centre() -> None:
    found = waves(torch.tensor([[0.0, 0.5, 0.5, 1.0]]))[0]  # centre: row .25, column .75
    angles = [share * math.pi * turns for turns in (1, 2, 4, 8) for share in (0.25, 0.75)]
    expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_waves_tell_every_place_of_a_fine_grid() -> None:
    found = waves(grid_layout(32, 32).boxes)
    apart = torch.cdist(found, found) + torch.eye(1024)
    assert apart.min() > 0.2


def test_alike_tokens_have_keys_of_their_own_places() -> None:
    torch.manual_seed(0)
    head, plain = GroundingHead(8, 4, places=True), GroundingHead(8, 4)
    features = torch.randn(1, 1, 8).expand(1, 6, 8)
    boxes = grid_layout(2, 3).boxes[None]
    keys = head.keys(features, features, boxes)
    assert keys.shape == (1, 6, 4) and torch.cdist(keys[0], keys[0])[~torch.eye(6, dtype=torch.bool)].min() > 1e-3
    same = plain.keys(features, features)
    assert torch.equal(same, same[:, :1].expand_as(same)) and plain.key_place is None


@pytest.mark.parametrize(("fixture", "has"), [("tiny_model", False), ("qwen_model", True), ("patches_model", True)])
def test_models_with_rotary_positions_alone_have_places(
    fixture: str, has: bool, request: pytest.FixtureRequest
) -> None:
    model: MaskCaptionModel = request.getfixturevalue(fixture)
    assert any("grounding.key_place" in name for name in model.state_dict()) == has
    encoded = model.encode(torch.randn(2, 3, 32, 32))
    encoded.keys.sum().backward()
    assert model.grounding is not None
    if has:
        assert model.grounding.key_place.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
