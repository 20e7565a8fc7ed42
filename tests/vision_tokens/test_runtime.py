"""Tilings held to a target and above a floor, and what is said of impossible ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import MOLMO, Geometry
from maskcap.vision_tokens.latency import COMPONENTS, LatencyRow, LatencyTable
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.runtime import RuntimeRule, runtime_rule
from maskcap.vision_tokens.settings import Tiling


@pytest.fixture
def latencies(tmp_path: Path) -> str:
    """A table of 1..8 crops, 10 ms each."""
    rows = [LatencyRow(n, 1, n, 0, 0, dict.fromkeys(COMPONENTS, 1.0), 10.0 * n) for n in range(1, 9)]
    LatencyTable(MOLMO, True, "a device", "a model", 16, tuple(rows)).save(tmp_path / "latency.json")
    return str(tmp_path / "latency.json")


def test_images_take_what_the_target_allows(latencies: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    rule = Tiling(max_crops=12, target_latency_ms=45.0, latency_table=latencies).runtime_rule(MOLMO, "a model")
    assert rule.crops == 4
    sizes = np.random.default_rng(0).integers(100, 3000, (200, 2)).tolist()
    assert [rule.choose(*size) for size in sizes] == [TilingRule(max_crops=4).choose(*size) for size in sizes]
    assert caplog.messages == [
        "vision tokens, target 45 ms: at most 4 of 12 crops an image (measured 40.0 ms on a device)"
    ]
    assert runtime_rule(TilingRule(max_crops=2), 45.0, latencies, 0.0).crops == 2


def test_a_target_that_cannot_be_met_takes_one_crop_and_says_so(latencies: str, caplog: pytest.LogCaptureFixture):
    rule = runtime_rule(TilingRule(), 5.0, latencies, 0.0)
    assert rule.choose(4000, 4000) == (1, 1)
    assert "target_latency_ms=5 cannot be met: the fastest of" in caplog.text and "takes 10.0 ms" in caplog.text


def test_a_table_that_ends_before_max_crops_is_told_of(latencies: str, caplog: pytest.LogCaptureFixture):
    assert runtime_rule(TilingRule(max_crops=12), 1000.0, latencies, 0.0).crops == 8
    assert "ends at 8 crops" in caplog.text
    caplog.clear()
    assert runtime_rule(TilingRule(max_crops=8), 1000.0, latencies, 0.0).crops == 8 and not caplog.messages


def test_without_target_and_floor_the_rule_is_as_it_was(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    for rule in (TilingRule(), TilingRule(exact_crops=5), TilingRule(vision_tokens=(432, 720))):
        plain = runtime_rule(rule, None, None, 0.0)
        for height in (50, 700, 5000):
            assert plain.decide(height, 700) == (rule.choose(height, 700), "within")
    assert not caplog.messages
    assert runtime_rule(TilingRule(), None, "unused.json", 0.0).crops == 12
    assert "unused.json has no use without vision_tokens.target_latency_ms" in caplog.text


def scale(tiling: tuple[int, int], height: int, width: int) -> float:
    return min(1.0, (224 * tiling[0] + 112) / height, (224 * tiling[1] + 112) / width)


def test_an_image_below_the_floor_takes_the_fewest_crops_that_reach_it():
    rule, floor, most = RuntimeRule(TilingRule(max_crops=9), crops=2, min_scale=0.5), 0.5, 9
    states = set()
    for height, width in np.random.default_rng(1).integers(50, 2500, (400, 2)).tolist():
        within = TilingRule(max_crops=2).choose(height, width)
        tiling, state = rule.decide(height, width)
        states.add(state)
        every = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if r * c <= most]
        reaching = [each for each in every if scale(each, height, width) >= floor]
        if scale(within, height, width) >= floor:
            assert (tiling, state) == (within, "within")
        elif reaching:
            assert state == "raised" and tiling in reaching
            assert tiling[0] * tiling[1] == min(r * c for r, c in reaching)
        else:
            assert (tiling, state) == (TilingRule(max_crops=9).choose(height, width), "short")
    assert states == {"within", "raised", "short"}


def test_the_floor_itself_is_reached():
    # two crops side by side cover 336 × 560 px: exactly half of this image
    assert RuntimeRule(TilingRule(), 2, 0.5).decide(672, 1120) == ((1, 2), "within")
    assert RuntimeRule(TilingRule(), 2, 0.5).decide(672, 1121) == ((1, 3), "raised")
    assert RuntimeRule(TilingRule(), 1, 1.0).decide(336, 336) == ((1, 1), "within")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_latency_ms": 50.0}, "needs a measured table: write one with `maskcap tokens profile"),
        ({"target_latency_ms": 0.0, "latency_table": "T"}, "take more than 0"),
        ({"target_latency_ms": 50.0, "latency_table": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"target_latency_ms": 50.0, "latency_table": "T", "exact_crops": 3}, "exact_crops both say how many crops"),
        ({"target_latency_ms": 50.0, "latency_table": "T", "vision_tokens": 432}, "vision_tokens both say how many"),
        ({"target_latency_ms": 50.0, "latency_table": "T", "global_view": False}, "is of Geometry"),
        ({"min_scale": 0.5, "exact_crops": 3}, "vision_tokens.min_scale=0.5 and vision_tokens.exact_crops"),
        ({"min_scale": 0.5, "image_sizes": ["560x336"]}, "keep one"),
        ({"min_scale": 1.5}, "a share of the image's size, 0 to 1"),
        ({"min_scale": -0.1}, "a share of the image's size, 0 to 1"),
    ],
)
def test_contradictions_are_named(options: dict, message: str, latencies: str):
    options = {key: latencies if value == "T" else value for key, value in options.items()}
    with pytest.raises(ConfigError) as caught:
        Tiling(**options).runtime_rule(MOLMO, "a model")
    assert message in str(caught.value)


def test_a_table_of_another_geometry_or_model_is_refused(latencies: str):
    tiling = Tiling(target_latency_ms=50.0, latency_table=latencies)
    with pytest.raises(ConfigError, match="latency.json is of Geometry.crop=336.*the model has Geometry.crop=448"):
        tiling.runtime_rule(Geometry(448), "a model")
    with pytest.raises(ConfigError, match="of another model, a model, not a larger model: measure this model"):
        tiling.runtime_rule(MOLMO, "a larger model")
    assert replace(tiling, image_sizes=["560x336"]).runtime_rule(MOLMO).crops == 5
