"""`maskcap report` as a user runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskcap.cli.main import main as maskcap
from maskcap.cli.report import main as report


def run_folder(place: Path, content: str = '{"val/miou": 0.5}') -> Path:
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(content)
    return place


def test_runs_are_compared_in_one_file(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for job in (0, 1):
        run_folder(tmp_path / "sweep" / f"x={job}")
    out = tmp_path / "new" / "page.html"
    given = ["report", f"{tmp_path}/sweep/x=0", f"{tmp_path}/sweep/*1", f"out={out}", "title=Two"]
    assert command(maskcap, *given) == 0
    said = capsys.readouterr().out
    assert f"{out}  2 runs" in said and "x=0 has no config.yaml (no such file), no metrics.csv (no such file)" in said
    assert "<title>Two</title>" in out.read_text() and "val/miou" in out.read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lost"], "lost is no folder: give the folder of a run"),
        (["there", "otu=x"], "unknown option 'otu'; did you mean 'out'?"),
        (["out=x"], "give the folder of a run"),
        (["there", "out=there"], "out=there cannot be written"),
    ],
)
def test_a_mistake_is_one_short_message(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    run_folder(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    assert command(report, *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_help_needs_no_runs(command: Any, capsys: pytest.CaptureFixture[str]):
    assert command(report) == 0 and command(report, "--help") == 0
    assert "maskcap report RUN …" in capsys.readouterr().out
