"""Qwen2-VL behind the interface, against the stock processor and the stock model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.errors import ConfigError, DataError
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import pretrained_qwen2_vl, tiny_qwen2_vl, tiny_sam2
from maskcap.models.segments import Questions, one_turn
from maskcap.models.sequence import build_continuations, build_sequences
from maskcap.models.vlm.adaptive_processor import AdaptiveQwen2VLImageProcessor
from maskcap.models.vlm.packed import forward_inputs
from maskcap.models.vlm.qwen2_vl import Qwen2VL
from maskcap.vision_tokens.settings import Patches, SingleView, Tiling

Draw = Callable[..., np.ndarray]
BUDGET = {"patch_selection_method": "budget", "alpha": 0.4}


@pytest.fixture
def vlm(qwen: Any, qwen_tokenizer: Any) -> Qwen2VL:
    """Either model with images of up to 10 × 10 blocks."""
    return Qwen2VL(qwen, qwen_tokenizer, max_pixels=280 * 280)


def image1_of(*images: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) of one size → (B, 3, H, W), ImageNet-normalised."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def processed(images: list[np.ndarray], **settings: Any) -> Any:
    """By the stock processor's code, images as large as they are."""
    return AdaptiveQwen2VLImageProcessor(do_resize=False)(images, return_tensors="pt", **settings)


def test_tokens_of_one_view_equal_the_stock_models(vlm: Qwen2VL, draw: Draw) -> None:
    images = [draw(280, 196, seed) for seed in range(2)]
    found = vlm.encode_image(image1_of(*images))
    assert [layout.grid for layout in found.layouts] == [(10, 7), (10, 7)] and found.boxes is not None
    inputs = processed(images)
    stock = vlm.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    # the same pixels but for the order in which they were scaled
    torch.testing.assert_close(found.features, torch.stack(stock), rtol=2e-3, atol=2e-3)


def test_chosen_cells_and_their_tokens_equal_the_processors(vlm: Qwen2VL, draw: Draw) -> None:
    images = [draw(280, 252, seed) for seed in range(2)]
    found = vlm.encode_image(image1_of(*images), patches=Patches(alpha=0.4))
    inputs = processed(images, **BUDGET)
    assert found.counts == inputs["image_num_cells"].tolist() == [36, 36]
    cells = np.concatenate([layout.cells[0] for layout in found.layouts])
    assert np.array_equal(cells, inputs["image_cells"].numpy())
    slots = "<|image_pad|>" * sum(found.counts)
    ids = torch.tensor([vlm.tokenizer(slots)["input_ids"]])
    packed = forward_inputs(vlm.model, {"input_ids": ids, **inputs})
    options = {name: value for name, value in packed.items() if name.startswith("image_")}
    stock = vlm.model.model.get_image_features(packed["pixel_values"], **options).pooler_output
    torch.testing.assert_close(found.features.flatten(0, 1), torch.cat(list(stock)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("patches", [Patches(alpha=1.0), Patches(alpha=1), Patches(levels=1, alpha=0.2)])
def test_all_fine_cells_are_no_selection_bit_for_bit(vlm: Qwen2VL, draw: Draw, patches: Patches) -> None:
    image1 = image1_of(draw(280, 280), draw(280, 280, 1))
    plain, chosen = vlm.encode_image(image1), vlm.encode_image(image1, patches=patches)
    assert torch.equal(plain.features, chosen.features) and plain.layouts == chosen.layouts
    assert plain.grid == chosen.grid == (10, 10)


def test_each_image_has_tokens_as_if_alone(vlm: Qwen2VL, draw: Draw) -> None:
    image1 = image1_of(*(draw(140, 140, seed) for seed in range(5)))
    sizes = [(140, 140), (112, 224), (140, 140), (400, 300), (112, 224)]  # those of one size are computed together
    patches = Patches(method="v1", thresholds=(6.0, 4.0))
    together = vlm.encode_image(image1, sizes, patches)
    assert len(set(together.counts)) >= 3 and together.valid is not None
    for n, size in enumerate(sizes):
        alone = vlm.encode_image(image1[n : n + 1], [size], patches)
        assert np.array_equal(alone.layouts[0].cells[0], together.layouts[n].cells[0])
        count = alone.counts[0]
        torch.testing.assert_close(together.features[n, :count], alone.features[0], rtol=1e-4, atol=1e-4)
        assert together.valid[n].sum() == count and together.features[n, count:].abs().sum() == 0


def test_masks_do_not_depend_on_the_other_images(vlm: Qwen2VL, draw: Draw) -> None:
    segmenter = tiny_sam2(image_size=64, hidden_size=64, width=8, mlp_dim=64)
    model = MaskCaptionModel(vlm, segmenter, grounding=True).eval()
    image1, sizes = image1_of(draw(140, 140), draw(140, 140, 1)), [(140, 140), (112, 224)]
    crops = Tiling(max_crops=2, margins=(2, 2), global_view=False)
    for settings in (SingleView(), Patches(alpha=0.4), crops):
        model.set_vision_tokens(settings)
        both = model.segment(image1, ["red circle", "blue"], sizes=sizes)
        for n in range(2):
            alone = model.segment(image1[n : n + 1], [["red circle", "blue"][n]], sizes=sizes[n : n + 1])
            torch.testing.assert_close(both[n : n + 1], alone, rtol=1e-4, atol=1e-5 * both.std().item())


def test_an_image_keeps_its_aspect_ratio_within_the_limits(vlm: Qwen2VL) -> None:
    sizes = [(1000, 500), (300, 300), (30, 60), (28, 5600)]
    found = vlm.encode_image(torch.randn(4, 3, 56, 56), sizes)
    # 280² px = 100 blocks at most, 4 at least; √(100 / (2 · 1)) = 7.07, and so on
    assert [layout.grid for layout in found.layouts] == [(14, 7), (10, 10), (2, 3), (1, 141)]
    with pytest.raises(DataError, match="over 200 times as long"):
        vlm.encode_image(torch.randn(1, 3, 56, 56), [(28, 5628)])


def test_positions_are_those_of_the_stock_model(vlm: Qwen2VL, draw: Draw) -> None:
    tokens = vlm.encode_image(image1_of(draw(140, 224), draw(140, 224, 1)))
    segments = [one_turn(1, "<|im_start|> red circle", " small"), one_turn(0, "<|im_start|> blue", None)]
    rows = build_sequences(vlm, Questions(segments), tokens, packing="none")
    prefix = vlm.conversation.prefix.replace("<|image_pad|>", "<|image_pad|>" * 40)
    texts = [f"{prefix}<|im_start|> red circle", f"{prefix}<|im_start|> blue"]
    # piece by piece, as a tokenizer may join the words of two pieces
    ids = [sum((vlm.tokenizer(part)["input_ids"] for part in (prefix, text[len(prefix) :])), []) for text in texts]
    for row, row_ids in enumerate(ids):
        given = torch.tensor([row_ids])
        kinds = (given == vlm.model.config.image_token_id).int()
        stock, _ = vlm.model.model.get_rope_index(given, kinds, image_grid_thw=torch.tensor([[1, 10, 16]]))
        assert torch.equal(rows.position_ids[:, row, : given.shape[1]], stock[:, 0])


def test_states_of_a_sequence_equal_the_stock_models_logits(vlm: Qwen2VL, draw: Draw) -> None:
    image = draw(140, 224)
    tokens = vlm.encode_image(image1_of(image), patches=Patches(alpha=0.4))
    rows = build_sequences(vlm, Questions([one_turn(0, "<|im_start|> red circle", None)]), tokens, packing="none")
    inputs = processed([image], **BUDGET)
    prefix = vlm.conversation.prefix.replace("<|image_pad|>", "<|image_pad|>" * tokens.counts[0])
    ids = [id_ for part in (prefix, "<|im_start|> red circle") for id_ in vlm.tokenizer(part)["input_ids"]]
    with torch.no_grad():
        ours = vlm.head(vlm.hidden_states(rows))
        stock = vlm.model(**forward_inputs(vlm.model, {"input_ids": torch.tensor([ids]), **inputs})).logits
    torch.testing.assert_close(ours, stock, rtol=1e-2, atol=1e-2)
    assert torch.equal(ours.argmax(-1), stock.argmax(-1))


def test_a_regions_tokens_stand_as_a_second_image(vlm: Qwen2VL, draw: Draw) -> None:
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64))
    image1, mask1 = image1_of(draw(140, 140)), torch.zeros(1, 140, 140)
    mask1[:, 28:84, 56:112] = 1  # blocks of rows 1 and 2, columns 2 and 3
    encoded = model.encode(image1)
    regions, _ = model.region_tokens(encoded.tokens, mask1, torch.tensor([0]))
    assert regions.positions is not None
    rows_columns = [[0, 0, 0, 0], [1, 1, 2, 2], [2, 3, 2, 3]]
    assert regions.positions[0][0].tolist() == rows_columns and regions.positions[0][1] == 5
    words = len(vlm.tokenizer(" describe")["input_ids"])
    for keep in (True, False):
        before = vlm.tokenizer(vlm.conversation.prefix if keep else vlm.conversation.no_image)["input_ids"]
        end = len(before) + 4 * keep  # the image takes five positions, and so does the region's
        segment = one_turn(0, "<|im_start|><vp><VP_CONTEXT></vp> describe", " red", (0,), keep_image=keep)
        rows = build_sequences(vlm, Questions([segment], regions), encoded.tokens if keep else None)
        found = rows.position_ids[:, 0, len(before) + 24 * keep :]
        text = [end, end + 1, *range(end + 2 + 5, end + 2 + 5 + 1 + words + 2)]
        for axis, places in enumerate(rows_columns):
            assert found[axis].tolist() == [*text[:2], *(end + 2 + place for place in places), *text[2:]]
    # as the stock model places an image after an image
    slots = "<|vision_start|>" + "<|image_pad|>" * 25 + "<|vision_end|>"
    given = torch.tensor([vlm.tokenizer(slots * 2)["input_ids"]])
    kinds = (given == vlm.model.config.image_token_id).int()
    stock, _ = vlm.model.model.get_rope_index(given, kinds, image_grid_thw=torch.tensor([[1, 10, 10]] * 2))
    second = stock[:, 0, 27 + 1 : 27 + 26]
    assert (second[:, [7, 8, 12, 13]] - second[:, :1]).tolist() == rows_columns
    assert stock[0, 0, -1] - second[0, 0] == 5


def test_rows_that_go_on_from_a_cache_stand_after_the_prefix(vlm: Qwen2VL, draw: Draw) -> None:
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64))
    image1 = image1_of(draw(140, 140), draw(140, 140, 1))
    encoded = model.encode(image1, [(140, 140), (112, 224)])
    questions = Questions([one_turn(1, "<|im_start|> red"), one_turn(0, "<|im_start|> large red circle")])
    rows = build_continuations(vlm, questions, encoded.tokens, encoded.prefix)
    text = len(vlm.tokenizer(vlm.conversation.prefix)["input_ids"]) - 1
    wide, square = text + 8, text + 5
    assert rows.position_ids[:, 0].tolist() == [[0, 0, wide, wide + 1]] * 3
    assert rows.position_ids[:, 1].tolist() == [[*range(square, square + 4)]] * 3


def test_crops_are_grids_one_after_the_other(vlm: Qwen2VL, draw: Draw) -> None:
    vlm.resize = type(vlm.resize)(28, 56 * 56, 112 * 112)
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64))
    model.set_vision_tokens(Tiling(max_crops=2, margins=(2, 2)))
    tokens = model.encode_image(image1_of(draw(112, 168)))
    (layout,) = tokens.layouts
    assert layout.tiling == (1, 2) and len(layout) == 16 + 4 * 6 == tokens.features.shape[1]
    positions, span = vlm.image_positions(layout)
    assert positions[:, :5].tolist() == [[0] * 5, [0, 0, 0, 0, 1], [0, 1, 2, 3, 0]]
    assert positions[:, 16:23].tolist() == [[4] * 7, [4] * 6 + [5], [4, 5, 6, 7, 8, 9, 4]] and span == 4 + 6
    assert vlm.views(layout) == 3


def test_settings_that_do_not_fit_are_refused(qwen2_vl: Any, qwen_tokenizer: Any, tiny_model: MaskCaptionModel) -> None:
    with pytest.raises(ConfigError, match="less than one cell"):
        Qwen2VL(qwen2_vl, qwen_tokenizer, max_pixels=700, min_pixels=1)
    fixed = Qwen2VL(qwen2_vl, qwen_tokenizer, min_pixels=8 * 784, max_pixels=8 * 784)
    assert fixed.encode_image(torch.randn(1, 3, 64, 64), [(400, 800)]).counts == [8]
    with pytest.raises(ConfigError, match="56² = 3136 are too few"):
        fixed.geometry((0, 0))
    with pytest.raises(ConfigError, match="InternVL, which has one grid for all images: use model=qwen2_vl"):
        tiny_model.set_vision_tokens(Patches())
    with pytest.raises(ConfigError, match="alpha"):
        Patches(alpha=None)
    with pytest.raises(ConfigError, match="thresholds are of method v1; budget does not read them"):
        Patches(thresholds=(3.0, 2.0))
    for sizes in ({"image_size": 100}, {"hidden_size": 32, "heads": 8}, {"heads": 3}, {"vit_size": 40}):
        with pytest.raises(ConfigError, match="take a"):
            tiny_qwen2_vl(**sizes)


def test_from_a_folder(qwen: Any, qwen_tokenizer: Any, tmp_path: Path) -> None:
    qwen.save_pretrained(tmp_path)
    qwen_tokenizer.save_pretrained(tmp_path)
    frozen = pretrained_qwen2_vl(str(tmp_path), dtype="float32", freeze_patterns=["model.visual.*"])
    assert type(frozen.model) is type(qwen) and frozen.conversation.prefix.startswith("<|im_start|>system")
    trains = {name.split(".")[1] for name, weight in frozen.model.named_parameters() if weight.requires_grad}
    assert "visual" not in trains and "language_model" in trains
    assert {"<vp>", "[SEG]"} <= set(frozen.tokenizer.get_vocab())
    image1 = torch.randn(1, 3, 112, 112)
    expected = Qwen2VL(qwen.eval(), qwen_tokenizer).encode_image(image1).features
    torch.testing.assert_close(frozen.encode_image(image1).features, expected)


def test_another_kind_of_folder_is_refused(tiny_model: MaskCaptionModel, tmp_path: Path) -> None:
    tiny_model.vlm.model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="of model_type internvl: expected one of qwen2_vl, qwen2_5_vl"):
        pretrained_qwen2_vl(str(tmp_path))
