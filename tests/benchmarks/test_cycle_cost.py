"""The cycle's benchmark at a tiny size: its ways are what they are called, its ratios what the times say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.cycle_cost import CYCLE, SUPERVISED, TEACHER, cycle_ratios, cycle_table, measure_cycle
from benchmarks.regions import draw_batch
from benchmarks.step_cost import Stepper
from benchmarks.timing import Times
from maskcap.models.mask_caption import MaskCaptionModel


def test_ratios_and_table() -> None:
    times = {
        SUPERVISED: Times([0.1, 0.2, 0.3], [1.0, 1.0, 1.0]),
        CYCLE: Times([0.5, 0.5, 0.1], [3.0, 3.0, 3.0]),
        TEACHER: Times([0.6, 0.6, 0.6], [4.0, 4.0, 4.0]),
    }
    assert cycle_ratios(times) == pytest.approx({"cycle_vs_supervised": 2.5, "cycle_kl_vs_supervised": 3.0})
    assert cycle_ratios(times, on_host=False) == pytest.approx(
        {"cycle_vs_supervised": 3.0, "cycle_kl_vs_supervised": 4.0}
    )
    assert "| cycle                    | 500.0 |       3000.0 |         2.50× |" in cycle_table(times, "a step")


def test_every_way_learns_from_every_region(tiny_model: MaskCaptionModel) -> None:
    """Each way decodes a mask for each region; the cycle's captions are as long as they may be."""
    masks: list[int] = []
    lengths: list[int] = []
    generate = tiny_model.vlm.generate

    def counted(sequences: object, most: int, rule: object = None) -> object:
        said = generate(sequences, most, rule)
        lengths.extend(map(len, said.ids))
        return said

    tiny_model.vlm.generate = counted  # type: ignore[assignment]
    decode = tiny_model.segmenter.decode

    def decoded(features: object, region_image: torch.Tensor, *prompts: object) -> torch.Tensor:
        masks.append(region_image.numel())
        return decode(features, region_image, *prompts)  # type: ignore[arg-type]

    tiny_model.segmenter.decode = decoded  # type: ignore[method-assign,assignment]
    times = measure_cycle(Stepper(tiny_model), draw_batch(2, 2, 64), rounds=1, tokens=5)
    assert set(times) == {SUPERVISED, CYCLE, TEACHER} and all(len(each.clock) == 1 for each in times.values())
    assert masks == [4] * 6  # once unmeasured, once measured, for each way
    assert len(lengths) == 16 and max(lengths) == 5


def test_the_part_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: MaskCaptionModel
) -> None:
    monkeypatch.setattr(step, "build_model", lambda *_, **__: tiny_model)
    file = tmp_path / "step.json"
    step.main(
        [
            "--parts",
            "cycle",
            "--shapes",
            "tiny",
            "--device",
            "cpu",
            "--rounds",
            "1",
            "--images",
            "1",
            "--json",
            str(file),
        ]
    )
    assert set(json.loads(file.read_text())) == {"cycle_vs_supervised", "cycle_kl_vs_supervised"}
