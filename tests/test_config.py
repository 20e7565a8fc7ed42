"""check_config on small stand-in constructors: what it accepts, what it says of the rest."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskcap.config import CheckedConfig, Node, Nodes, Variables, check_config
from maskcap.errors import ConfigError

STAND_INS = """
from __future__ import annotations
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
if TYPE_CHECKING:
    from nowhere import Unknown

@dataclass(frozen=True)
class Part:
    size: int
    share: float = 1.0

class Other:
    pass

@dataclass(frozen=True)
class House:
    part: Part | None = None
    count: int = 1
    rate: float = 0.5
    on: bool = True
    mode: Literal["near", "far"] = "near"
    where: str | Path = "here"
    betas: tuple[float, float] = (0.9, 0.99)
    names: Sequence[str] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    make: Callable[[], object] | None = None
    rooms: Mapping[str, Part] = field(default_factory=dict)

def typed_elsewhere(count: int, thing: Unknown = None) -> Unknown:
    return (count, thing)

def anything(**kwargs):
    return kwargs

number = 3
from os import getcwd
"""


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "stand_ins.py").write_text(STAND_INS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("stand_ins", None)


def check(house: dict, *, schema: dict | None = None, **top) -> CheckedConfig:
    trusted = top.pop("trusted_targets", ["stand_ins"])
    config = OmegaConf.create({"trusted_targets": trusted, "house": {"_target_": "stand_ins.House"} | house, **top})
    return check_config(config, {"trusted_targets": list[str], "house": Node()} | (schema or {}))


def problem(house: dict, **top) -> str:
    with pytest.raises(ConfigError) as caught:
        check(house, **top)
    return str(caught.value)


def test_a_valid_configuration_is_built_with_nested_nodes_partials_and_dataclasses():
    house = check(
        {
            "part": {"size": 3},  # a plain mapping where a dataclass is taken
            "rate": 1,  # an int for a float
            "betas": [0.5, 1],
            "names": ["a"],
            "rates": {"x": 1e-3},
            "make": {"_target_": "stand_ins.Part", "_partial_": True, "share": 0.25},
            "rooms": {"hall": {"_target_": "stand_ins.Part", "size": 2}, "attic": {"size": 4}},
        }
    ).build("house")
    from stand_ins import Part  # pyright: ignore[reportMissingImports]

    assert house.part == Part(3)
    assert isinstance(house.make, functools.partial) and house.make(7) == Part(7, 0.25)
    assert house.rooms == {"hall": Part(2), "attic": Part(4)}
    assert house.betas == [0.5, 1] and house.rates == {"x": 1e-3}


@pytest.mark.parametrize(
    ("house", "message"),
    [
        ({"count": "many"}, "house.count must be int, not 'many' (str)"),
        ({"count": True}, "house.count must be int, not True (bool)"),
        ({"count": 1.5}, "house.count must be int, not 1.5 (float)"),
        ({"on": 1}, "house.on must be bool, not 1 (int)"),
        ({"mode": "nearr"}, "house.mode must be one of 'near', 'far', not 'nearr' (str)"),
        ({"where": 3}, "house.where must be str or a path, not 3 (int)"),
        ({"betas": [0.1]}, "house.betas must be a list of 2: float, float, not [0.1] (list)"),
        ({"names": "a"}, "house.names must be a list of str, not 'a' (str)"),
        ({"rates": {"x": "y"}}, "house.rates.x must be float, not 'y' (str)"),
        ({"make": "Part"}, "house.make must be a mapping with _target_ and _partial_: true or null, not 'Part' (str)"),
        ({"part": 3}, "house.part must be a Part (a mapping with _target_) or null, not 3 (int)"),
        ({"rooms": {"hall": {"_target_": "stand_ins.Other"}}}, "house.rooms.hall must be a Part"),
    ],
)
def test_a_wrong_type_says_where_and_which_was_expected(house: dict, message: str):
    assert problem(house).startswith(message)


def test_an_unknown_key_is_named_in_full_with_the_nearest_valid_one():
    assert problem({"rat": 1}).startswith("unknown key 'house.rat'; did you mean 'house.rate'")
    assert "did you mean 'house.part.size'?" in problem({"part": {"sise": 1}})
    assert "did you mean 'house.rooms.hall.share'?" in problem({"rooms": {"hall": {"size": 1, "shar": 1.0}}})
    assert "did you mean 'seed'?" in problem({}, sede=1, seed=0, schema={"seed": int})


def test_a_missing_argument_and_a_missing_target_are_named():
    assert problem({"part": {}}).startswith("house.part.size is missing: Part needs size")
    assert problem({}, other={"a": 1}, schema={"other": Node()}).startswith("other has no _target_")
    assert problem({}, schema={"other": Node()}) == "other is missing from the configuration"


def test_mandatory_values_and_broken_interpolations():
    assert problem({"count": "???"}).startswith("house.count is not set: give it on the command line, house.count=…")
    assert problem({"count": "${nowhere.at.all}"}).startswith("house.count cannot be resolved: Interpolation key")


def test_a_key_that_an_interpolation_reads_is_a_variable_and_is_not_passed_on():
    checked = check({"root": "/data", "rel": 2, "where": "${house.root}/x", "rooms": {"hall": {"size": "${...rel}"}}})
    assert checked.build("house").where == "/data/x"
    assert checked.build("house").rooms["hall"].size == 2
    assert "root" not in checked["house"]
    assert "unknown key 'house.root'" in problem({"root": "/data"})


def test_a_value_read_from_elsewhere_is_named_where_it_is_written():
    part = {"_target_": "stand_ins.Part", "size": "x"}
    assert problem({"part": "${part}"}, part=part, schema={"part": Node()}).startswith("part.size must be int")
    assert problem({"mode": "${words.mode}"}, words={"mode": 1}, schema={"words": Variables()}).startswith("words.mode")


def test_groups_of_nodes_variables_and_nested_schemas():
    node = {"_target_": "stand_ins.Part", "size": 1}
    checked = check({}, parts={"a": node, "b": None}, schema={"parts": Nodes()})
    assert list(checked.build("parts")) == ["a"]
    assert problem({}, words={"idle": 1}, schema={"words": Variables()}).startswith("unknown key 'words.idle'")
    assert problem({}, paths={"dat": "x"}, schema={"paths": {"data": str}}).startswith(
        "unknown key 'paths.dat'; did you mean 'paths.data'?"
    )


def test_open_and_partly_typed_signatures():
    open_node = {"_target_": "stand_ins.anything", "whatever": 1}
    assert check({}, a=open_node, schema={"a": Node()}).build("a") == {"whatever": 1}
    elsewhere = {"_target_": "stand_ins.typed_elsewhere", "count": 1, "thing": [2]}
    assert check({}, a=elsewhere, schema={"a": Node()}).build("a") == (1, [2])
    wrong = elsewhere | {"count": "x"}
    assert problem({}, a=wrong, schema={"a": Node()}).startswith("a.count must be int")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "os.system is not of a trusted package"),
        ("stand_ins.getcwd", "is defined in posix, which is not a trusted package"),
        ("torch.os.system", "is defined in posix, which is not a trusted package"),
        ("torch.load", "torch.load is none of what a configuration may build of torch: a class of Module, Optimizer"),
        ("torch.hub.load", "is none of what a configuration may build of torch"),
        ("torch.utils.cpp_extension.load_inline", "is none of what"),
        ("torch.package.PackageImporter", "is none of what"),
        ("transformers.AutoModel.from_pretrained", "is none of what"),
        ("lightning.pytorch.cli.LightningCLI", "is none of what"),
        ("stand_ins.Pard", "stand_ins has no 'Pard'; did you mean 'Part'?"),
        ("stand_ins.number", "is defined in None"),
        ("maskcap.nowhere.Thing", "maskcap has no 'nowhere'"),
        ("Part", "must be the full name"),
    ],
)
def test_targets_are_limited_to_what_is_trusted_and_exists(target: str, message: str):
    assert message in problem({"part": {"_target_": target}})


def test_trust_is_given_by_name():
    assert "trusted_targets=[stand_ins]" in problem({}, trusted_targets=[])


def test_kwargs_of_a_thin_data_module_are_its_base_classes():
    data = {"_target_": "maskcap.data.datamodule.SA1BDataModule", "root": "x", "batch_size": 2}
    check({}, data=data, schema={"data": Node()})
    message = problem({}, data=data | {"batch_sise": 2}, schema={"data": Node()})
    assert message.startswith("unknown key 'data.batch_sise'; did you mean 'data.batch_size'")
