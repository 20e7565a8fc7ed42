"""One small set of scenes for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcap.data.scenes import make_scenes

ARGUMENTS = {"seed": 3, "train": 12, "val": 9, "size": 96}


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", **ARGUMENTS, workers=0)
