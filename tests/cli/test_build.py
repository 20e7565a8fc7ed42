from __future__ import annotations

import lightning
import pytest
import torch

from maskcap.cli.build import check_together
from maskcap.config import CheckedConfig
from maskcap.errors import ConfigError


class Data:
    val_names = ["main", "content"]


class Joined(lightning.LightningModule):
    def __init__(self, part: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = torch.nn.ModuleDict({part: torch.nn.Linear(2, 2).to(dtype)})


def check(part: str, dtype: torch.dtype, precision: str, sets: list[str] | None = None) -> None:
    trainer = lightning.Trainer(accelerator="cpu", precision=precision, logger=False)  # type: ignore[arg-type]
    check_together(CheckedConfig({"module": {"describe_sets": sets}}), Data(), Joined(part, dtype), trainer)


@pytest.mark.parametrize(("part", "group"), [("vlm", "model"), ("segmenter", "segmenter")])
def test_half_precision_weights_need_mixed_precision(part: str, group: str):
    with pytest.raises(ConfigError, match=rf"{group}.dtype=bfloat16 .*bf16-mixed, or {group}.dtype=float32"):
        check(part, torch.bfloat16, "32-true")
    check(part, torch.bfloat16, "bf16-mixed")
    check(part, torch.float32, "32-true")


def test_described_sets_exist():
    check("vlm", torch.float32, "32-true", ["content"])
    with pytest.raises(ConfigError, match="no validation set 'contnet'; did you mean 'content'. There are: main, con"):
        check("vlm", torch.float32, "32-true", ["main", "contnet"])
