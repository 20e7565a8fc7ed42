from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from maskcap.cli.launch import conf_folder
from maskcap.errors import ConfigError
from maskcap.sweeps.space import SearchSpace, distribution, read_space


def space_of(params: dict[str, str], *arguments: str) -> SearchSpace:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None and isinstance(hydra.config_loader, ConfigLoaderImpl)
        return read_space(params, arguments, hydra.config_loader)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.1, 2)", FloatDistribution(0.1, 2.0)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("range(1, 5)", IntDistribution(1, 4)),  # Hydra leaves the end out, Optuna does not
        ("range(2, 9, 3)", IntDistribution(2, 8, step=3)),
        ("range(8, 1, -3)", IntDistribution(2, 8, step=3)),
        ("range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("choice(1e-3, tiny, [1, 2], 'a b')", CategoricalDistribution(["0.001", "tiny", "[1,2]", r"a\ b"])),
        ("1,2", CategoricalDistribution(["1", "2"])),
    ],
)
def test_distributions_of_hydras_sweeps(text: str, expected: object):
    assert distribution(OverridesParser.create().parse_override(f"some.key={text}")) == expected


@pytest.mark.parametrize("text", ["interval(2, 1)", "tag(log, interval(0, 1))", "range(3, 3)"])
def test_what_is_no_space_is_named(text: str):
    with pytest.raises(ConfigError, match="'some.key=.*' is no search space: "):
        distribution(OverridesParser.create().parse_override(f"some.key={text}"))


def test_the_command_lines_keys_win_and_trials_are_overrides_again():
    params = {"optimizer.lr": "interval(0, 1)", "seed": "choice(0, 1)", "data.batch_size": "range(1, 4)"}
    space = space_of(params, "seed=3", "+x.y='a, b'", "~callbacks.pictures", "+z=u,v", "optimizer.lr=interval(2, 3)")
    assert list(space.distributions) == ["optimizer.lr", "data.batch_size", "+z"]
    assert space.distributions["optimizer.lr"] == FloatDistribution(2.0, 3.0)
    fixed = ["seed=3", "+x.y='a, b'", "~callbacks.pictures"]
    values = {"optimizer.lr": 2.5e-05, "data.batch_size": 2, "+z": "v"}
    assert space.overrides(values) == [*fixed, "optimizer.lr=2.5e-05", "data.batch_size=2", "+z=v"]
    assert [probe[-1] for probe in space.probes()] == ["+z=u", "+z=v"]
    assert space.describe() == space_of(params, "seed=4", "+z=u,v", "optimizer.lr=interval(2, 3)").describe()


def test_a_sweep_over_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing to search: give sweep=NAME"):
        space_of({}, "seed=1")
