"""`maskcap doctor` as a user runs it: the demo, and runs that cannot go well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskcap.cli.doctor import main as doctor

TINY = ["data.prepare.train=8", "data.prepare.val=3", "data.prepare.size=64", "data.image_size=64"]
TINY += ["model.image_size=64", "segmenter.image_size=64", "segmenter.hidden_size=64", "model.hidden_size=32"]
TINY += ["images=1", "steps=3", "factor=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "demo"


def test_the_demo_is_well(command: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "findings.json"
    assert command(doctor, *TINY, f"data.root={root}", f"out={out}", f"hydra.run.dir={tmp_path / 'run'}") == 0
    said = capsys.readouterr().out
    marks = [line.split()[:2] for line in said.splitlines() if line[:1] in "✓✗–"]
    assert marks == [["✓", name] for name in ("device", "data", "weights", "tokens", "[SEG]", "regions", "packing")] + [
        ["✓", "checkpoint"],
        ["✓", "one"],
    ]
    findings = json.loads(out.read_text())
    assert list(findings)[0] == "device" and all(each["ok"] for each in findings.values())
    assert findings["device"]["facts"]["versions"]["torch"] and findings["data"]["facts"]["regions"] > 0
    assert len(findings["one batch"]["facts"]["losses"]["mask_to_caption"]) == 3


@pytest.mark.parametrize(
    ("given", "wrong", "message"),
    [
        (["data=refcoco", "data.root=nowhere"], ["data"], "nowhere"),
        (["trainer=gpu"], ["device"], "gpu"),
        (["segmenter.image_size=65"], ["weights"], "take a multiple of 32"),
        (["checkpoint=lost.ckpt"], ["weights"], "lost.ckpt does not exist"),
        (["optimizer.lr=1e-12", "lr=0", "factor=1.5"], ["one batch"], "should fall by a factor of 1.5"),
    ],
)
def test_what_is_wrong_is_marked_and_the_rest_is_still_looked_at(
    command: Any,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    wrong: list[str],
    message: str,
):
    demo = [each for each in TINY if not (given[0] == "data=refcoco" and "prepare" in each)]
    data = [] if given[0] == "data=refcoco" else [f"data.root={root}"]
    assert command(doctor, *demo, *data, *given, f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().out
    findings = json.loads((tmp_path / "run" / "doctor.json").read_text())
    assert [name for name, each in findings.items() if each["ok"] is False] == wrong
    if wrong[0] != "one batch" and "checkpoint" not in given[0]:
        assert findings["one batch"]["said"].startswith("not reached")


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["steps=1"], 2, "steps=1: needs at least 2"),
        (["stpes=3"], 1, "did you mean 'steps'?"),
        (["optimizer.lr=fast"], 2, "optimizer.lr must be float"),
    ],
)
def test_a_mistake_is_one_short_message(
    command: Any, given: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(doctor, *given, f"hydra.run.dir={tmp_path / 'run'}") == code
    assert message in capsys.readouterr().err
