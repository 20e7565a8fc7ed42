from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.cli.comparison import METRICS, CompareRuns, comparison_table, read_runs


def make_run(folder: Path, number: int, crops: int, metrics: dict[str, float] | None) -> None:
    run = folder / str(number)
    run.mkdir(parents=True)
    config = {"seed": 0, "vision_tokens": {"max_crops": crops, "pool": "nearest"}, "paths": {"run": str(run)}}
    OmegaConf.save(OmegaConf.create(config), run / "config.yaml")
    if metrics is not None:
        (run / "metrics.json").write_text(json.dumps(metrics))


def test_runs_are_compared_by_the_settings_in_which_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, crops in enumerate([1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13]):
        make_run(tmp_path, number, crops, None if crops == 6 else {"val/miou": crops / 20, "val/pair_size": 1.0})
    config = OmegaConf.create({"optimized_metric": "val/pair_size", "hydra": {"sweep": {"dir": str(tmp_path)}}})
    CompareRuns().on_multirun_end(config)
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert [run["run"] for run in written] == [str(number) for number in range(11)]  # 10 after 9
    assert written[2]["settings"] == {"vision_tokens.max_crops": 4}
    assert written[2]["metrics"] == {"val/miou": 0.2, "val/pair_size": 1.0}
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert lines[0] == "| run | vision_tokens.max_crops | pair_size | miou |" and lines[4] == "| 2 | 4 | 1 | 0.2 |"
    assert lines[5] == "| 3 | 6 | - | - |"  # ended before its first validation
    assert "vision_tokens.max_crops" in capsys.readouterr().out


def test_the_cycles_scores_are_shown_where_a_run_has_them(tmp_path: Path) -> None:
    for number, name in enumerate(["val/cycle_miou", "val/cross_frame_miou"]):
        make_run(tmp_path, number, number, {name: 0.5})
    header, _ = comparison_table(read_runs(tmp_path), METRICS)
    assert header == ["run", "vision_tokens.max_crops", "cycle_miou", "cross_frame_miou"]


def test_a_multirun_without_a_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CompareRuns().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "holds no run to compare" in caplog.text and not list(tmp_path.iterdir())


def test_a_setting_that_only_some_runs_have_is_shown(tmp_path: Path) -> None:
    make_run(tmp_path, 0, 1, {"val/miou": 0.5})
    make_run(tmp_path, 1, 1, {"val/miou": 0.25})
    config = OmegaConf.load(tmp_path / "1" / "config.yaml")
    config.loops = {"cycle": {"weight": 2}}  # type: ignore[union-attr]
    OmegaConf.save(config, tmp_path / "1" / "config.yaml")
    header, rows = comparison_table(read_runs(tmp_path), ["val/miou"])
    assert header == ["run", "loops.cycle.weight", "miou"]
    assert rows == [["0", "None", "0.5"], ["1", "2", "0.25"]]
