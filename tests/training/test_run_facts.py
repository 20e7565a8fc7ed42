"""What is known of code and machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import maskcap
from maskcap.training.run_facts import code_version, command_line, machine, versions


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path):
    (tmp_path / "file").write_text("a")
    assert code_version(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    found = code_version(tmp_path)
    assert len(found["commit"]) == 40 and found["dirty"] is False
    (tmp_path / "new").write_text("not tracked")
    assert code_version(tmp_path) == found
    (tmp_path / "file").write_text("b")
    assert code_version(tmp_path) == found | {"dirty": True}
    (tmp_path / "inner").mkdir()  # an environment inside somebody's repository is not that repository
    assert code_version(tmp_path / "inner") == {"commit": None, "dirty": None}


def test_versions_and_machine():
    found = versions()
    assert found["maskcap"] == maskcap.__version__ and found["torch"][0].isdigit() and "unknown" not in found.values()
    assert machine()["cores"] >= 1 and machine()["host"]
    assert command_line()
