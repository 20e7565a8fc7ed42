"""The patches' benchmark at a small size: the same answer where nothing is saved, memory as counted by hand, every
figure by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import patches, prefill_cost
from benchmarks.prefill_cost import OFF, ONE, PatchCost, Prefill, cost_table, draw_photos, measure, peak_bytes, ratios
from benchmarks.qwen2_vl_shape import in_bfloat16
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_qwen2_vl, tiny_sam2
from maskcap.vision_tokens.settings import Patches, SingleView


@pytest.fixture(scope="module")
def model() -> MaskCaptionModel:
    """8 × 8 tokens of 8 px an image."""
    vlm = tiny_qwen2_vl(image_size=64, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=32, width=8), max_new_tokens=1).eval()


def test_alpha_1_reads_what_no_selection_reads(model: MaskCaptionModel) -> None:
    photos = draw_photos(2, "cpu")
    off, one, half = (Prefill(model, photos, each) for each in (SingleView(), Patches(alpha=1.0), Patches(alpha=0.5)))
    for each in (off, one, half):
        each.encode()
        each.read()
    assert off.encoded is not None and one.encoded is not None
    assert torch.equal(off.encoded.tokens.features, one.encoded.tokens.features)
    for mine, its in zip(off.encoded.prefix.keys, one.encoded.prefix.keys, strict=True):
        assert torch.equal(mine, its)
    half.run()
    assert half.encoded is None  # so that a peak counts all of the next run
    assert (off.tokens, one.tokens, half.tokens) == (64, 64, 31)  # 32 less 1: 4 of all, and 3 more a split


def test_a_gpus_weights_as_far_as_a_cpu_can_go() -> None:
    vlm = tiny_qwen2_vl(image_size=64, hidden_size=32, vit_size=32, vit_layers=1, lm_layers=1)
    model = in_bfloat16(MaskCaptionModel(vlm, tiny_sam2(image_size=32), max_new_tokens=1)).eval()
    prefill = Prefill(model, draw_photos(1, "cpu"), Patches(alpha=0.5))
    prefill.encode()
    prefill.read()
    assert prefill.encoded is not None and prefill.encoded.tokens.features.dtype == torch.bfloat16


def test_peak_memory_by_hand() -> None:
    kept = []

    def run() -> None:
        first = torch.zeros(1000, 1000)
        second = torch.ones(1000, 1000)
        del first
        kept.append(second + second)  # two of the three at once, twice

    before = torch.zeros(3000, 1000)  # does not count
    assert peak_bytes(run, "cpu") == 2 * 4 * 1000 * 1000
    assert peak_bytes(lambda: None, "cpu") == 0 and before.shape == (3000, 1000)


def test_fewer_tokens_need_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's activations outweigh the picture's own pixels."""
    monkeypatch.setattr(prefill_cost, "LOADED", 128)
    vlm = tiny_qwen2_vl(vit_size=128, vit_layers=1, lm_layers=1)
    model = MaskCaptionModel(vlm, tiny_sam2(image_size=32), max_new_tokens=1).eval()
    ways = {OFF: SingleView(), ONE: Patches(alpha=1.0), "alpha_0.3": Patches(alpha=0.3)}
    costs = measure(model, draw_photos(1, "cpu"), ways, rounds=1)
    found = ratios(costs)
    assert found["tokens_alpha_0.3"] == 76 / 256 and found["tokens_off"] == 1
    assert found["memory_alpha_0.3"] < 0.8 and found["encode_alpha_0.3"] < 0.8
    assert all(cost.encode > 0 and cost.read > 0 for cost in costs.values())
    assert costs[OFF].choose < costs["alpha_0.3"].choose < costs["alpha_0.3"].encode


def test_ratios_and_table_by_hand() -> None:
    costs = {
        OFF: PatchCost(1024, 3.9, 1.0, 0.0, 4_000_000),
        ONE: PatchCost(1024, 4.0, 1.0, 0.1, 4_000_000),
        "alpha_0.3": PatchCost(307, 1.0, 0.25, 0.05, 1_000_000),
    }
    found = ratios(costs)
    assert found["tokens_alpha_0.3"] == 307 / 1024
    assert (found["prefill_alpha_0.3"], found["encode_alpha_0.3"], found["read_alpha_0.3"]) == (0.25, 0.25, 0.25)
    assert found["memory_alpha_0.3"] == 0.25 and found["choose_share_alpha_0.3"] == pytest.approx(0.04)
    assert found["prefill_off"] == pytest.approx(0.98) and "choose_share_off" not in found
    assert not any(name.endswith("alpha_1") for name in found if name != "choose_share_alpha_1")
    lines = cost_table(costs).splitlines()
    assert len(lines) == 2 + 3 and len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[-1].split("|")[1:-1]] == [
        "alpha 0.3", "307", "0.30", "1000.0", "250.0", "1250.0", "0.25", "1.0", "0.25", "50.0", "4.0%",
    ]  # fmt: skip


def test_each_figure_is_printed_and_written(
    model: MaskCaptionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patches, "build_qwen2_vl", lambda *_: model)  # smaller than any of its own, as real
    options = ["--alphas", "0.5", "0.3", "--pictures", "2", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    figures = patches.main([*options, "--shapes", "slice"])
    parts = ("tokens", "prefill", "encode", "read", "memory")
    names = {f"{part}_{way}" for part in parts for way in ("off", "alpha_0.5", "alpha_0.3")}
    names |= {f"choose_share_alpha_{alpha}" for alpha in ("1", "0.5", "0.3")} | {"tokens_v1", "tokens_v2"}
    assert json.loads((tmp_path / "out.json").read_text()) == figures and set(figures) == names
    assert all(figure > 0 for figure in figures.values())
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, "alpha 0.3", "v1, default thresholds"])


def test_names_of_other_shapes_end_with_what_they_are(model: MaskCaptionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "build_qwen2_vl", lambda *_: model)
    figures = patches.main(["--shapes", "tiny", "--alphas", "0.5", "--pictures", "1", "--rounds", "1"])
    assert all(name.endswith("_tiny_cpu") for name in figures)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        patches.main(["--shapes", "2b"])
    assert "torch finds no GPU here: use --device cpu" in capsys.readouterr().err
