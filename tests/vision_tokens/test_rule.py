"""TilingRule: each way to set the crops, on original image sizes, and what contradicts."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.rule import TilingRule, crops_for
from maskcap.vision_tokens.tiling import image_sizes_nearest, select_tiling

INTERNVL = Geometry(448, 14, (4, 4), 2)
TABLE = [  # the specification's: image, tiling, tokens of the crops and the global view
    ((560, 336), (2, 1), 432),
    ((336, 560), (1, 2), 432),
    ((560, 560), (2, 2), 720),
    ((560, 784), (2, 3), 1008),
    ((784, 560), (3, 2), 1008),
    ((784, 784), (3, 3), 1440),
]


@pytest.mark.parametrize(("size", "tiling", "slots"), TABLE)
def test_the_specifications_table_by_every_rule(size, tiling, slots) -> None:
    crops = tiling[0] * tiling[1]
    assert TilingRule().choose(*size) == tiling
    assert TilingRule(image_sizes=[f"{size[0]}x{size[1]}"]).choose(123, 4567) == tiling
    assert TilingRule(exact_crops=crops).choose(*size) == tiling
    assert TilingRule(vision_tokens=slots).choose(*size) == tiling


def test_max_crops_see_the_image_without_its_margins() -> None:
    assert TilingRule().choose(425, 640) == (2, 3)
    assert TilingRule(max_crops=4).choose(425, 640) == select_tiling(313, 528, 224, 4)
    assert TilingRule().choose(100, 2000) == (1, 1)
    assert TilingRule().choose(336, 336) == (1, 1)
    assert TilingRule().choose(336, 337) == (1, 2)
    assert TilingRule(INTERNVL).choose(448, 449) == (1, 2)


def test_exact_crops_and_targets_override_max_crops() -> None:
    assert TilingRule(max_crops=2, exact_crops=6).choose(400, 600) == (2, 3)
    assert TilingRule(max_crops=2, vision_tokens=1008).choose(600, 400) == (3, 2)
    # margins do not count for these: 100 × 200 px is 1:2
    assert TilingRule(exact_crops=8).choose(100, 200) == (2, 4)


def test_of_several_targets_the_best_aspect_ratio_wins_then_more_tokens() -> None:
    rule = TilingRule(vision_tokens=[432, 720, 1008, 1440])
    assert rule.choose(500, 500) == (3, 3)  # 2×2 is as square, with fewer tokens
    assert rule.choose(200, 400) == (1, 2)
    assert rule.choose(400, 600) == (2, 3)
    assert rule.choose(100, 900) == (1, 9)
    for height, width in np.random.default_rng(0).integers(1, 2000, (500, 2)).tolist():
        wanted = math.log(width / height)
        tilings = [select_tiling(height, width, 224, 1, exact_crops=crops) for crops in (2, 4, 6, 9)]
        distances = [abs(math.log(columns / rows) - wanted) for rows, columns in tilings]
        best = [t for t, distance in zip(tilings, distances, strict=True) if distance < min(distances) + 1e-12]
        assert rule.choose(height, width) == max(best, key=lambda tiling: tiling[0] * tiling[1])


def test_image_sizes_are_cut_within_max_crops() -> None:
    texts = ["560x336", "336x560", "784x784"]
    rule = TilingRule(image_sizes=texts)
    assert rule.sizes == ((560, 336), (336, 560), (784, 784))
    assert rule.choose(1000, 600) == (2, 1)
    assert rule.choose(90, 100) == (3, 3)
    assert rule.with_max_crops(4).choose(90, 100) == (2, 2)
    for height, width in np.random.default_rng(1).integers(1, 2000, (200, 2)).tolist():
        nearest = image_sizes_nearest(height, width, rule.sizes)
        assert rule.choose(height, width) == TilingRule().choose(*nearest)


@pytest.mark.parametrize("geometry", [MOLMO, INTERNVL, Geometry(56, 14, (0, 0), 1)])
def test_no_image_exceeds_max_crops(geometry: Geometry) -> None:
    for height, width, limit in np.random.default_rng(2).integers((1, 1, 1), (4000, 4000, 20), (500, 3)).tolist():
        rows, columns = TilingRule(geometry).with_max_crops(limit).choose(height, width)
        assert 1 <= rows * columns <= limit


def test_rules_from_yaml_lists_are_hashable_and_equal() -> None:
    assert hash(TilingRule(vision_tokens=[432, 720])) == hash(TilingRule(vision_tokens=(432, 720)))
    assert TilingRule(vision_tokens=432) == TilingRule(vision_tokens=[432])
    assert TilingRule(image_sizes="560x336") == TilingRule(image_sizes=["560x336"])
    assert TilingRule(image_sizes=["560x336"]).targets == ()
    assert TilingRule(max_crops=3).with_max_crops(5) == TilingRule(max_crops=5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_crops": 0}, "max_crops=0: take at least 1"),
        ({"exact_crops": 0}, "exact_crops=0: take at least 1"),
        ({"exact_crops": 4, "vision_tokens": 720}, "exact_crops and vision_tokens exclude each other"),
        ({"exact_crops": 4, "image_sizes": ["560x336"]}, "exact_crops and image_sizes exclude"),
        ({"vision_tokens": []}, "vision_tokens.vision_tokens: the list is empty"),
        ({"image_sizes": []}, "vision_tokens.image_sizes: the list is empty"),
        ({"vision_tokens": [432, 500]}, "vision_tokens=500.*take 432 or 576"),
        ({"vision_tokens": 144}, "vision_tokens=144.*take 288"),
        ({"vision_tokens": 0}, "take 288"),
        ({"vision_tokens": 300}, "take 288 or 432"),
        ({"vision_tokens": 432, "geometry": INTERNVL}, "a view has 256 tokens.*take 512"),
        ({"image_sizes": ["560x336", "560 by 336"]}, "'560 by 336'.*HEIGHTxWIDTH"),
        ({"image_sizes": ["0x336"]}, "HEIGHTxWIDTH"),
    ],
)
def test_contradictions_are_errors_that_say_what_to_take(wrong, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TilingRule(**wrong)


def test_the_nearest_valid_targets_are_valid() -> None:
    for tokens in range(0, 1500, 7):
        try:
            crops = crops_for(tokens)
        except ConfigError as error:
            named = [int(text) for text in re.findall(r"\d+", str(error).split("take")[1])]
            assert named and all(crops_for(target) >= 1 for target in named)
            assert min(abs(target - tokens) for target in named) <= max(72, 288 - tokens)
        else:
            assert tokens == 144 * (crops + 1)


def test_an_image_without_pixels_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 × 20 px"):
        TilingRule().choose(0, 20)
    with pytest.raises(ConfigError, match="max_crops=0"):
        TilingRule().with_max_crops(0)


def test_without_a_global_view_all_tokens_are_the_crops() -> None:
    geometry = Geometry(crop=448)
    assert TilingRule(geometry, vision_tokens=512, global_view=False).choose(500, 1000) == (1, 2)
    assert TilingRule(geometry, vision_tokens=256, global_view=False).choose(500, 1000) == (1, 1)
    assert TilingRule(geometry, vision_tokens=512).choose(500, 1000) == (1, 1)
    with pytest.raises(ConfigError, match="at least one crop, so take 256 or 512"):
        TilingRule(geometry, vision_tokens=300, global_view=False)
