"""`maskcap tokens profile` as a user runs it, and its table in the model that it was measured on."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.cli.main import main as maskcap
from maskcap.cli.tokens_profile import tiling_of
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2
from maskcap.vision_tokens.latency import COMPONENTS, LatencyTable
from maskcap.vision_tokens.settings import Tiling

TINY = ["model.image_size=64", "model.hidden_size=32", "model.vit_layers=1", "model.lm_layers=1"]
TINY += ["segmenter.image_size=64", "segmenter.hidden_size=64", "vision_tokens.margins=[2,2]", "image_size=64"]
SHORT = ["vision_tokens.max_crops=3", "rounds=1", "new_tokens=3", "device=cpu"]


def test_a_table_of_every_number_of_crops_serves_the_model_it_is_of(
    command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "latency.json"
    given = [*TINY, *SHORT, f"out={path}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command(maskcap, "tokens", "profile", *given) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "decode a token" in shown and "1 × 3" in shown and "written: " in shown
    table = LatencyTable.load(path)
    assert [(row.crops, row.rows, row.columns) for row in table.rows] == [(1, 1, 1), (2, 1, 2), (3, 1, 3)]
    # a crop is 8 × 8 tokens; with 2 tokens of margin kept on either end, 1 × n crops keep 8 rows of 4n + 4 columns
    assert [(row.slots, row.tokens) for row in table.rows] == [(128, 128), (192, 160), (256, 192)]
    assert all(set(row.ms) == set(COMPONENTS) and min(row.ms.values()) > 0 for row in table.rows)
    assert table.new_tokens == 3 and table.device.startswith("CPU")

    vlm = tiny_internvl(image_size=64, hidden_size=32, vit_layers=1, lm_layers=1)
    tiling = Tiling(margins=(2, 2), target_latency_ms=5e5, latency_table=str(path))
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=64, hidden_size=64), True, tiling)
    assert model.tiling_rule is not None and model.tiling_rule.crops == 3
    said = capsys.readouterr().out  # Hydra's log goes on after the command
    assert "target 500000 ms: at most 3 of 12 crops an image (measured" in said and "ends at 3 crops" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rounds=0"], "rounds=0: needs at least 1"),
        (["new_tokens=1"], "new_tokens=1: needs at least 2"),
        (["precision=fp8"], "precision=fp8: take 32-true or bf16-mixed"),
        (["vision_tokens=single"], "one view has one latency"),
        (["checkpoint=nowhere.ckpt"], "checkpoint=nowhere.ckpt does not exist"),
    ],
)
def test_mistakes_are_one_message(
    command, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sizes = [each for each in TINY if "margins" not in each or "vision_tokens=single" not in arguments]
    assert command(maskcap, "tokens", "profile", *sizes, *arguments, f"paths.runs={tmp_path}") == 2
    assert message in capsys.readouterr().err


def test_a_run_s_tiling_but_for_what_is_given():
    tiling = {"_target_": "x", "max_crops": 12, "margins": [4, 4], "min_scale": 0.0}
    given = OmegaConf.create({"vision_tokens": tiling | {"max_crops": 3, "margins": [2, 2]}})
    run = OmegaConf.create({"vision_tokens": {"_target_": "x", "max_crops": 6, "margins": [6, 6]}})
    assert tiling_of(run, given, []) == tiling | {"max_crops": 6, "margins": [6, 6]}
    assert tiling_of(run, given, ["vision_tokens.max_crops=3"])["max_crops"] == 3
    single = OmegaConf.create({"vision_tokens": {"_target_": "y", "pool": "nearest"}})
    assert tiling_of(single, given, []) == tiling | {"max_crops": 3, "margins": [2, 2]}
