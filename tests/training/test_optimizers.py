"""Rates for each part, warm-up and cosine."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maskcap.errors import ConfigError
from maskcap.training.optimizers import AdamW, WarmupCosine


def _module() -> nn.Module:
    return nn.ModuleDict({"vit": nn.Linear(4, 4), "head": nn.Linear(4, 2)})


def test_first_matching_pattern_sets_the_rate_and_vectors_take_no_decay() -> None:
    settings = AdamW(lr=1e-3, weight_decay=0.1, learning_rates={"vit.bias": 5e-4, "vit.*": 1e-4})
    groups = settings.build(_module()).param_groups
    found = {(group["lr"], group["weight_decay"], p.shape) for group in groups for p in group["params"]}
    assert found == {
        (1e-4, 0.1, torch.Size([4, 4])),
        (5e-4, 0.0, torch.Size([4])),
        (1e-3, 0.1, torch.Size([2, 4])),
        (1e-3, 0.0, torch.Size([2])),
    }


def test_idle_pattern_and_frozen_model_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="no trained parameter matches"):
        AdamW(learning_rates={"vat.*": 1.0}).build(_module())
    with pytest.raises(ConfigError, match="model.freeze_patterns"):
        AdamW().build(_module().requires_grad_(False))


def test_warmup_then_cosine() -> None:
    schedule = WarmupCosine(warmup=0.1, final=0.2)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[:3] == [0.1, 0.2, 0.3] and factors[9] == 1.0
    assert factors[55] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert factors[100] == pytest.approx(0.2)
