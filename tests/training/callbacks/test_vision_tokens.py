"""The lines that a run logs about its tilings."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from maskcap.data.batch import Batch
from maskcap.models.component_times import device_name
from maskcap.training.callbacks.vision_tokens import VisionTokens, summary
from maskcap.vision_tokens.geometry import MOLMO
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.runtime import RuntimeRule

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Module(pl.LightningModule):
    """Its model is a rule and nothing else; its batches are real ones."""

    def __init__(self, rule: RuntimeRule | None) -> None:
        super().__init__()
        self.model: Any = SimpleNamespace(tiling_rule=rule, vision_tokens=SimpleNamespace(global_view=True))
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def loaders(tiny_batch: Batch) -> tuple[Any, Any]:
    """Training: a square image and a wide one, twice. Validation: a tall one, and one that only fills its batch."""
    train = replace(tiny_batch, sizes=[(336, 336), (336, 1500)])
    val = replace(tiny_batch, sizes=[(1500, 336), (2000, 2000)], padding=(False, True))
    return tuple(DataLoader(each, batch_size=None) for each in ([train, train], [val]))  # type: ignore[arg-type]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.endswith("callbacks.vision_tokens")]


def test_a_line_a_validation_and_one_a_fit(make_trainer: Any, loaders: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    rule = RuntimeRule(TilingRule(max_crops=3), crops=1, min_scale=0.5)
    trainer = make_trainer(VisionTokens(), num_sanity_val_steps=1)
    trainer.fit(Module(rule), *loaders)
    # 1500 px at half their size need 750 px: 3 crops of 784 px; of a 1 × 1 tiling 288 tokens are kept, of 3 × 1 480
    val = (
        "validation: 1 images, 100.0% of 3 × 1 crops; mean 480.0 tokens (576.0 computed); 1 raised to min_scale=0.5, "
        "0 below it with max_crops"
    )
    fit = (
        "training: 8 images, 50.0% of 1 × 1, 50.0% of 1 × 3 crops; mean 384.0 tokens (432.0 computed); 4 raised to "
        "min_scale=0.5, 0 below it with max_crops"
    )
    assert lines(caplog) == [val, val, fit]
    assert MOLMO.kept(3, 1) == 28 * 12 + 144 and MOLMO.slots(3, 1) == 576
    caplog.clear()
    make_trainer(VisionTokens()).validate(Module(rule), loaders[1], verbose=False)
    assert lines(caplog) == [val]


def test_a_single_view_says_nothing(make_trainer: Any, loaders: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    make_trainer(VisionTokens()).fit(Module(None), *loaders)
    assert lines(caplog) == []


def test_plain_tiling_has_its_line_without_a_floor(make_trainer: Any, loaders: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    make_trainer(VisionTokens()).validate(Module(RuntimeRule(TilingRule(), 12)), loaders[1], verbose=False)
    assert lines(caplog) == ["validation: 1 images, 100.0% of 7 × 1 crops; mean 864.0 tokens (1152.0 computed)"]


def test_a_table_of_another_device_is_warned_of_once(make_trainer: Any, loaders: Any, caplog: pytest.LogCaptureFixture):
    for device, warned in (("a faster one", 1), (device_name(torch.device("cpu")), 0)):
        caplog.clear()
        rule = RuntimeRule(TilingRule(), 2, target_ms=50.0, device=device)
        make_trainer(VisionTokens()).fit(Module(rule), *loaders)
        assert sum("was measured on a faster one, this is CPU" in line for line in caplog.messages) == warned


def test_rare_tilings_are_summed_up():
    taken = Counter({((1, n), "within"): 20 - n for n in range(1, 12)})
    line = summary("training", taken, RuntimeRule(TilingRule(), 12))  # type: ignore[arg-type]
    assert "12.3% of 1 × 1, " in line and line.count(" of ") == 9 and "19.5% of 3 others" in line
