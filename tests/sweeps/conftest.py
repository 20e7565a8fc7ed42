from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from maskcap.sweeps.settings import PrunerSettings, SamplerSettings, SweepSettings
from maskcap.sweeps.space import SearchSpace, distribution
from maskcap.sweeps.storage import sqlite_url
from maskcap.sweeps.study import SweepStudy, open_study

Opened = Callable[..., AbstractContextManager[SweepStudy]]


def settings(**changes: Any) -> SweepSettings:
    values: dict[str, Any] = {"study": "s", "storage": None, "n_trials": 8, "n_jobs": 1, "direction": "maximize"}
    values |= {"seed": 0, "sampler": SamplerSettings(startup_trials=3), "pruner": PrunerSettings(), "retries": 1}
    return SweepSettings(**{**values, "stop_after_failures": None, **changes})


def space(*lines: str) -> SearchSpace:
    given = OverridesParser.create().parse_overrides(lines or ("x=interval(0, 1)", "y=choice(a, b)", "seed=1"))
    swept = {each.get_key_element(): distribution(each) for each in given if each.is_sweep_override()}
    return SearchSpace(swept, tuple(each for each in given if not each.is_sweep_override()))


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """`open_study` on this test's own file."""

    def make(*lines: str, metric: str = "val/miou", folder: Path = tmp_path, **changes: Any):
        return open_study(settings(**changes), space(*lines), metric, sqlite_url(folder))

    return make
