"""Limits: the specification's figures, a search over every tiling, and costs counted on real tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from maskcap.errors import ConfigError, SequenceTooLongError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.limits import (
    MOLMO_TEMPLATE,
    LanguageShape,
    Template,
    activation_bytes,
    attention_flops,
    check_fits,
    kv_cache_bytes,
    longest,
    max_safe_crops,
    sequence_length,
)

SMALL = Geometry(56, 14, (0, 0), 2)
SHAPE = LanguageShape(width=24, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=40, vocabulary=50, bytes=4)


def _tilings(max_crops: int) -> list[tuple[int, int]]:
    return [(rows, columns) for rows in range(1, max_crops + 1) for columns in range(1, max_crops // rows + 1)]


def test_an_image_costs_what_molmos_template_says() -> None:
    for rows, columns in _tilings(12):
        assert sequence_length(rows, columns) == 160 + (8 * rows + 4) * (8 * columns + 5)


@pytest.mark.parametrize("geometry", [MOLMO, Geometry(448, 14, (4, 4), 2), SMALL])
def test_a_template_without_text_leaves_the_kept_tokens(geometry: Geometry) -> None:
    for global_view in (True, False):
        length = sequence_length(2, 3, geometry, Template(0, 0), global_view)
        assert length == geometry.kept(2, 3, global_view)


@pytest.mark.parametrize("template", [MOLMO_TEMPLATE, Template(1, 7)])
@pytest.mark.parametrize("geometry", [MOLMO, SMALL])
def test_the_longest_is_that_of_a_search_over_every_tiling(geometry: Geometry, template: Template) -> None:
    for max_crops in range(1, 80):
        length, tiling = longest(max_crops, geometry, template)
        assert length == max(sequence_length(*any_tiling, geometry, template) for any_tiling in _tilings(max_crops))
        assert length == sequence_length(*tiling, geometry, template)
        assert tiling[0] * tiling[1] <= max_crops


@pytest.mark.parametrize(("text", "crops"), [(0, 37), (64, 36), (256, 34), (496, 32), (1024, 27), (2368, 14)])
def test_the_specified_safe_crops(text: int, crops: int) -> None:
    assert max_safe_crops(4096, text) == crops


@pytest.mark.parametrize("global_view", [True, False])
@pytest.mark.parametrize("geometry", [MOLMO, SMALL])
def test_safe_crops_are_the_last_that_fit_and_one_more_does_not(geometry: Geometry, global_view: bool) -> None:
    for max_length, text in [(500, 30), (700, 0), (1000, 123), (2048, 500), (3000, 7)]:
        crops = max_safe_crops(max_length, text, geometry, MOLMO_TEMPLATE, global_view)
        fits = [
            max(sequence_length(*tiling, geometry, MOLMO_TEMPLATE, global_view) for tiling in _tilings(limit)) + text
            <= max_length
            for limit in (crops, crops + 1)
            if limit
        ]
        assert fits == [True, False][-len(fits) :]


def test_safe_crops_of_a_long_context_and_of_none() -> None:
    crops = max_safe_crops(131072, 0)
    assert longest(crops)[0] <= 131072 < longest(crops + 1)[0]
    assert longest(1)[0] == 316
    assert [max_safe_crops(316, text) for text in (0, 1, 400)] == [1, 0, 0]
    with pytest.raises(ConfigError, match="max_crops=0"):
        longest(0)


def test_a_sample_that_fits_passes() -> None:
    assert check_fits(704, 704, "sample 3", 2, 3) is None
    with pytest.raises(SequenceTooLongError, match="sample 3"):  # one token more does not
        check_fits(705, 704, "sample 3", 2, 3)


def test_a_sample_that_does_not_fit_is_named_with_a_way_out() -> None:
    length = sequence_length(3, 4) + 496
    with pytest.raises(SequenceTooLongError) as error:
        check_fits(length, 1536, "sa_142238 of train", 3, 4)
    message = str(error.value)
    safe = max_safe_crops(1536, 496)
    for part in ("sa_142238 of train", "3 × 4 crops", "1196 tokens", "1692 tokens", "text 496", "1536"):
        assert part in message
    assert f"vision_tokens.max_crops={safe}, " in message and 1 <= safe < 12
    # what it advises works: the longest image of that many crops, with the same text
    check_fits(longest(safe)[0] + 496, 1536, "the same", *longest(safe)[1])


def test_a_text_that_leaves_no_room_for_a_crop_is_called_that() -> None:
    with pytest.raises(SequenceTooLongError, match="not even one crop fits.*shorten the text"):
        check_fits(sequence_length(1, 1) + 2000, 2048, "sample 3", 1, 1)


@pytest.mark.parametrize("length", [1, 2, 37, 200])
def test_attention_meets_every_pair_of_a_causal_mask(length: int) -> None:
    pairs = int(np.tril(np.ones((length, length), dtype=bool)).sum())
    a_pair = 2 * SHAPE.head_dim + 2 * SHAPE.head_dim  # its score, and its value's share of the sum
    assert attention_flops(length, SHAPE) == pairs * a_pair * SHAPE.heads * SHAPE.layers


def test_the_cache_is_as_large_as_its_tensors() -> None:
    shape = LanguageShape(width=24, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=40)
    keys = torch.zeros(3, 1, shape.kv_heads, 71, shape.head_dim, dtype=torch.bfloat16)
    assert kv_cache_bytes(71, shape) == keys.nbytes + torch.zeros_like(keys).nbytes


class Decoder:
    """A decoder as LanguageShape describes it, every weight of which is trained, and its loss."""

    def __init__(self, shape: LanguageShape) -> None:
        self.shape = shape
        self.weights: list[torch.Tensor] = []

    def weight(self, *size: int) -> torch.Tensor:
        self.weights.append(torch.randn(*size, requires_grad=True))
        return self.weights[-1]

    def linear(self, x: torch.Tensor, size: int) -> torch.Tensor:
        return functional.linear(x, self.weight(size, x.shape[-1]))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight(x.shape[-1]))

    def heads(self, x: torch.Tensor, count: int) -> torch.Tensor:
        return self.linear(x, count * self.shape.head_dim).unflatten(-1, (count, -1)).transpose(1, 2)

    def loss(self, hidden: torch.Tensor) -> torch.Tensor:
        shape = self.shape
        for _ in range(shape.layers):
            x = self.norm(hidden)
            q, k, v = (self.heads(x, count) for count in (shape.heads, shape.kv_heads, shape.kv_heads))
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            hidden = hidden + self.linear(x.transpose(1, 2).flatten(2), shape.width)
            x = self.norm(hidden)
            x = functional.silu(self.linear(x, shape.mlp)) * self.linear(x, shape.mlp)
            hidden = hidden + self.linear(x, shape.width)
        out = self.norm(hidden)
        if not shape.vocabulary:
            return out.sum()
        targets = torch.zeros(hidden.shape[1], dtype=torch.int64)
        return functional.cross_entropy(self.linear(out, shape.vocabulary)[0], targets)


@pytest.mark.parametrize("vocabulary", [0, 50])
def test_activations_are_what_autograd_saves(vocabulary: int) -> None:
    length = 64
    shape = replace(SHAPE, vocabulary=vocabulary)
    decoder, saved = Decoder(shape), []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)  # which keeps it alive, so that no two share an address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        decoder.loss(torch.randn(1, length, shape.width, requires_grad=True))
    weights = {weight.data_ptr() for weight in decoder.weights}
    stores = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    # numbers per token alone, such as variances and log-sum-exps, are not counted
    large = [size for at, size in stores.items() if at not in weights and size > length * shape.heads * shape.bytes]
    assert activation_bytes(length, shape) == sum(large)
