"""The adaptive processor: the stock one's output with selection off, cells computed anew here with it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from maskcap.errors import ConfigError
from maskcap.models.vlm.adaptive_processor import AdaptiveQwen2VLImageProcessor, AdaptiveQwen2VLProcessor

Draw = Callable[..., np.ndarray]
Prompt = Callable[..., str]
BUDGET = {"patch_selection_method": "budget", "alpha": 0.3}


class StockProcessor(Qwen2VLProcessor):
    """The stock processor without its video processor, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


@pytest.fixture
def stock(qwen_tokenizer: PreTrainedTokenizerFast) -> StockProcessor:
    return StockProcessor(Qwen2VLImageProcessorPil(), qwen_tokenizer)


def equal(found: Any, expected: Any) -> bool:
    """Same keys, types and bits."""
    return list(found) == list(expected) and all(
        found[key].dtype == expected[key].dtype and torch.equal(found[key], expected[key]) for key in expected
    )


def blocks_of(image: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Independently: uint8 (H, W, 3), its own size a multiple of 28 → float64 (K, 4, 1176), a value at a time."""
    mean, std = np.array(Qwen2VLImageProcessorPil.image_mean), np.array(Qwen2VLImageProcessorPil.image_std)
    values = (image / 255 - mean) / std
    out = np.empty((len(cells), 4, 3, 2, 14, 14))
    for index, (row, column, level) in enumerate(cells):
        scale = 2**level
        for y in range(28):
            for x in range(28):
                top, left = row * 28 + y * scale, column * 28 + x * scale
                area = values[top : top + scale, left : left + scale].mean(axis=(0, 1))
                out[index, y // 14 * 2 + x // 14, :, :, y % 14, x % 14] = area[:, None]
    return out.reshape(len(cells), 4, 1176)


@pytest.mark.parametrize(
    "off", [{}, {"patch_selection_method": None}, {"patch_selection_method": "none", "alpha": 0.3}]
)
def test_off_is_the_stock_processor(
    off: dict[str, Any], stock: StockProcessor, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt
) -> None:
    if off:  # a call's setting takes the place of a default
        qwen_processor.image_processor.patch_selection_method, qwen_processor.image_processor.alpha = "budget", 0.5
    call = {"images": [draw(200, 333), draw(60, 500, 1)], "text": [prompt(2), " red"], "padding": True}
    found = qwen_processor(**call, return_tensors="pt", images_kwargs=off)
    assert equal(found, stock(**call, return_tensors="pt"))
    assert qwen_processor.last_budget_info == []


def test_alpha_1_is_the_stock_processor_with_cells_beside(
    stock: StockProcessor, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt
) -> None:
    call = {"images": [draw(200, 333)], "text": [prompt(1)], "return_tensors": "pt"}
    found = qwen_processor(**call, images_kwargs={"patch_selection_method": "budget", "alpha": 1})
    cells, counts = found.pop("image_cells"), found.pop("image_num_cells")
    assert equal(found, stock(**call))
    _, height, width = found["image_grid_thw"][0] // 2
    assert torch.equal(cells, torch.tensor([(r, c, 0) for r in range(height) for c in range(width)]))
    assert counts.tolist() == [height * width] and counts.dtype == cells.dtype == torch.int64


@pytest.mark.parametrize("settings", [BUDGET, {"patch_selection_method": "v1"}, {**BUDGET, "patch_levels": 2}])
def test_cells_hold_the_mean_of_their_area(settings: dict[str, Any], draw: Draw) -> None:
    image = draw(9 * 28, 14 * 28)  # not resized, so that the pixels are known
    found = AdaptiveQwen2VLImageProcessor()(image, return_tensors="np", **settings)
    cells = found["image_cells"]
    assert found["pixel_values"].shape == (4 * len(cells), 1176) and found["pixel_values"].dtype == np.float32
    assert found["image_grid_thw"].tolist() == [[1, 18, 28]]
    assert set(cells[:, 2]) == set(range(settings.get("patch_levels", 3)))
    covered = np.zeros((9, 14), dtype=int)
    for row, column, level in cells:
        covered[row : row + 2**level, column : column + 2**level] += 1
    assert (covered == 1).all()
    expected = blocks_of(image, cells).reshape(-1, 1176)
    np.testing.assert_allclose(found["pixel_values"], expected, atol=2e-6, rtol=0)
    stock = Qwen2VLImageProcessorPil()(image, return_tensors="np")["pixel_values"].reshape(9, 14, 4, 1176)
    fine = cells[:, 2] == 0
    kept = found["pixel_values"].reshape(-1, 4, 1176)[fine]
    assert np.array_equal(kept, stock[cells[fine, 0], cells[fine, 1]])


def test_entropy_is_of_the_resized_pixels_before_normalisation(draw: Draw) -> None:
    image = Image.fromarray(draw(301, 407))
    processor = AdaptiveQwen2VLImageProcessor(**BUDGET)
    found = processor(image, return_tensors="np")
    _, height, width = found["image_grid_thw"][0]
    resized = np.asarray(image.resize((int(width) * 14, int(height) * 14), Image.Resampling.BICUBIC))
    again = processor(resized, return_tensors="np", do_resize=False, do_normalize=False)
    assert np.array_equal(found["image_cells"], again["image_cells"])
    as_floats = processor(resized.transpose(2, 0, 1) / 255, return_tensors="np", do_resize=False, do_rescale=False)
    assert np.array_equal(found["image_cells"], as_floats["image_cells"])


def test_every_image_gets_a_token_a_cell(qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt) -> None:
    images = [draw(280, 392), draw(392, 280, 1), draw(56, 308, 2)]
    text = [prompt(2), " red", prompt(1)]
    found = qwen_processor(images=images, text=text, padding=True, return_tensors="pt", images_kwargs=BUDGET)
    counts = found["image_num_cells"].tolist()
    slots = (found["input_ids"] == qwen_processor.image_token_id).sum(1).tolist()
    assert slots == [counts[0] + counts[1], 0, counts[2]]
    info = qwen_processor.last_budget_info
    assert [one["actual"] for one in info] == counts and len(found["image_cells"]) == sum(counts)
    assert info[0] == {"base_tokens": 17, "budget": 42, "k": 8, "actual": 41}  # 10 × 14 blocks
    assert qwen_processor.image_processor.last_budget_info is info
    qwen_processor(text=[" red"])
    assert qwen_processor.last_budget_info is info  # of the last call with images
    qwen_processor(images=images[:1], text=[prompt(1)])
    assert qwen_processor.last_budget_info == []


@pytest.mark.parametrize("method", ["v1", "v2", "budget"])
def test_three_ways_to_ask_give_the_same(
    method: str, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt
) -> None:
    call = {"images": [draw(280, 392)], "text": [prompt(1)], "return_tensors": "pt"}
    asked = {"patch_selection_method": method, "alpha": 0.4}
    by_call = qwen_processor(**call, images_kwargs=asked)
    alone = qwen_processor.image_processor(call["images"], return_tensors="pt", **asked)
    qwen_processor.image_processor.patch_selection_method = method
    qwen_processor.image_processor.alpha = 0.4
    by_default = qwen_processor(**call)
    assert equal(by_default, by_call)
    assert all(torch.equal(alone[key], by_call[key]) for key in alone)
    assert len(by_call["image_cells"]) < 140
    overridden = qwen_processor(**call, images_kwargs={"patch_selection_method": "budget", "alpha": 1.0})
    assert len(overridden["image_cells"]) == 140


def test_thresholds_of_v1(draw: Draw) -> None:
    processor = AdaptiveQwen2VLImageProcessor(patch_selection_method="v1")
    default = processor(draw(280, 392))["image_cells"]
    same = processor(draw(280, 392), patch_thresholds=[3.0, 2.0])["image_cells"]
    none = processor(draw(280, 392), patch_thresholds=(0.0, 0.0))["image_cells"]
    assert np.array_equal(default, same) and len(none) == 140 > len(default)
    assert processor.last_budget_info[0]["actual"] == 140


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_selection_method": "v3", "alpha": 0.3},
        {"patch_selection_method": 3, "alpha": 0.3},
        {"patch_selection_method": "budget", "alpha": True},
        {"patch_selection_method": "budget", "alpha": "0.3"},
        {"patch_selection_method": "budget"},
        {"patch_selection_method": "budget", "alpha": 0},
        {"patch_selection_method": "budget", "alpha": 1.5},
        {"patch_selection_method": "v2", "alpha": -0.1},
        {"patch_selection_method": "v1", "patch_thresholds": [3.0]},
        {**BUDGET, "patch_levels": 0},
    ],
)
def test_wrong_settings(wrong: dict[str, Any], draw: Draw) -> None:
    with pytest.raises(ConfigError):
        AdaptiveQwen2VLImageProcessor()(draw(56, 56), **wrong)
    with pytest.raises(ConfigError):
        AdaptiveQwen2VLImageProcessor(**wrong)(draw(56, 56))


def test_an_unknown_key_raises_as_in_the_stock_processor(
    stock: StockProcessor, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt
) -> None:
    for processor in (stock, qwen_processor):
        with pytest.raises(TypeError, match="alhpa"):
            processor(images=[draw(56, 56)], text=[prompt(1)], images_kwargs={"alhpa": 0.3})


def test_images_that_have_no_entropy(draw: Draw) -> None:
    processor = AdaptiveQwen2VLImageProcessor(**BUDGET)
    with pytest.raises(ConfigError, match="channels"):
        processor(draw(56, 56)[..., :1], do_convert_rgb=False)
    with pytest.raises(ConfigError, match="floats in 0..1"):
        processor(draw(56, 56).astype(np.float32) - 90, do_resize=False)


def test_videos_are_refused(qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw) -> None:
    with pytest.raises(ConfigError, match="videos"):
        qwen_processor(videos=[np.stack([draw(56, 56)] * 2)], text=["<|video_pad|>"])
    with pytest.raises(ConfigError, match="NoneType"):
        AdaptiveQwen2VLProcessor(None, qwen_processor.tokenizer)


def test_settings_outlive_a_folder(
    tmp_path: Path, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw, prompt: Prompt
) -> None:
    settings = {"patch_selection_method": "v1", "alpha": 0.4, "patch_thresholds": [2.5], "patch_levels": 2}
    for key, value in settings.items():
        setattr(qwen_processor.image_processor, key, value)
    qwen_processor.chat_template = "{{ messages }}"
    call = {"images": [draw(280, 392)], "text": [prompt(1)], "return_tensors": "pt"}
    expected = qwen_processor(**call)
    qwen_processor.save_pretrained(tmp_path / "both")
    qwen_processor.image_processor.save_pretrained(tmp_path / "alone")
    assert all("last_budget_info" not in path.read_text() for path in tmp_path.glob("*/*.json"))
    both = AdaptiveQwen2VLProcessor.from_pretrained(tmp_path / "both")
    alone = AdaptiveQwen2VLImageProcessor.from_pretrained(tmp_path / "alone")
    for found in (both.image_processor, alone, AdaptiveQwen2VLImageProcessor.from_pretrained(tmp_path / "both")):
        assert {key: getattr(found, key) for key in settings} == settings
        assert found.last_budget_info == [] and found.to_dict() == qwen_processor.image_processor.to_dict()
    assert equal(both(**call), expected) and both.chat_template == "{{ messages }}"


def test_settings_given_on_loading(tmp_path: Path, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw) -> None:
    qwen_processor.save_pretrained(tmp_path)
    found = AdaptiveQwen2VLProcessor.from_pretrained(tmp_path, **BUDGET)
    assert (found.image_processor.patch_selection_method, found.image_processor.alpha) == ("budget", 0.3)
    assert "alpha" not in found.tokenizer.init_kwargs
    found.image_processor.alpha = 1.0  # a default set later holds, whatever was given on loading
    assert len(found(images=[draw(280, 392)], return_tensors="pt")["image_cells"]) == 140
    alone = AdaptiveQwen2VLImageProcessor.from_pretrained(tmp_path, **BUDGET)
    assert (alone.patch_selection_method, alone.alpha) == ("budget", 0.3)


@pytest.mark.parametrize("kind", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"])
def test_a_stock_folder_loads(
    kind: str,
    tmp_path: Path,
    stock: StockProcessor,
    qwen_tokenizer: PreTrainedTokenizerFast,
    draw: Draw,
    prompt: Prompt,
) -> None:
    qwen_tokenizer.save_pretrained(tmp_path)
    config = {
        "image_processor_type": kind,
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 100352,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": list(Qwen2VLImageProcessorPil.image_mean),
        "image_std": list(Qwen2VLImageProcessorPil.image_std),
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    found = AdaptiveQwen2VLProcessor.from_pretrained(tmp_path)
    call = {"images": [draw(400, 500)], "text": [prompt(1)], "return_tensors": "pt"}
    expected = stock(**call, images_kwargs={"size": {"shortest_edge": 3136, "longest_edge": 100352}})
    assert equal(found(**call), expected) and found.image_processor.patch_selection_method is None
    assert len(found(**call, images_kwargs=BUDGET)["image_cells"]) < expected["image_grid_thw"][0].prod() // 4


def test_counts_without_an_image(stock: StockProcessor, qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw) -> None:
    sizes = [(301, 407), (1000, 90), (28, 900)]
    assert qwen_processor._get_num_multimodal_tokens(sizes) == stock._get_num_multimodal_tokens(sizes)
    images = [draw(*size) for size in sizes]
    cells = qwen_processor.image_processor(images, **BUDGET)["image_num_cells"].tolist()
    found = qwen_processor._get_num_multimodal_tokens(sizes, images_kwargs=BUDGET)
    assert found["num_image_tokens"] == cells and found["num_image_patches"] == [4 * count for count in cells]
    smaller = {**BUDGET, "size": {"shortest_edge": 3136, "longest_edge": 28 * 28 * 40}}
    cells = qwen_processor.image_processor(images, **smaller)["image_num_cells"].tolist()
    assert qwen_processor._get_num_multimodal_tokens(sizes, images_kwargs=smaller)["num_image_tokens"] == cells
    for method in ("v1", "v2"):
        with pytest.raises(ConfigError, match="depends on the image"):
            qwen_processor.image_processor.get_number_of_image_patches(
                56, 56, {"patch_selection_method": method, "alpha": 0.5}
            )


def test_an_alpha_that_nothing_reads_is_an_error(qwen_processor: AdaptiveQwen2VLProcessor, draw: Draw) -> None:
    for given in ({"alpha": 0.3}, {"patch_thresholds": [3.0, 2.0]}):
        with pytest.raises(ConfigError, match="without a patch_selection_method"):
            qwen_processor.image_processor([draw(112, 112)], **given)
    qwen_processor.image_processor.patch_selection_method = "budget"
    assert qwen_processor.image_processor([draw(112, 112)], alpha=0.3)["image_num_cells"].tolist() == [4]


def test_floats_from_0_to_1_have_the_entropies_of_their_bytes(draw: Draw) -> None:
    image = draw(280, 280)
    settings = {"patch_selection_method": "v2", "alpha": 0.9, "do_resize": False, "return_tensors": "pt"}
    processor = AdaptiveQwen2VLImageProcessor()
    expected = processor([image], **settings)["image_cells"]
    threshold = processor.last_budget_info[0]["threshold"]
    # 1/255 steps in float32: some of them lie a little below the byte that they were
    found = processor([image.astype(np.float32) / 255], do_rescale=False, **settings)["image_cells"]
    assert np.array_equal(found, expected) and processor.last_budget_info[0]["threshold"] == threshold
