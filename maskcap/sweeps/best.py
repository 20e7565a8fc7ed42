"""The best trial as an experiment file that the ordinary command runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from maskcap.durable import write_whole

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

    from maskcap.sweeps.space import SearchSpace


def write_best(space: SearchSpace, values: Mapping[str, Any], folder: Path, loader: ConfigLoader, about: str) -> str:
    """`<folder>/experiment/best.yaml`: the sweep's experiment, its other settings and the trial's values.

    Returns the command that runs it, from the folder that the sweep was started in. What a file cannot hold (keys
    taken away, groups in another place or empty by default) stands in the command. about: a comment in the file.
    """
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(space.overrides(values))
    content, defaults, rest = _experiment(overrides, loader)
    shown = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    command = shlex.join(["python", "train.py", f"--config-dir={shown}", "+experiment=best", *rest])
    path = folder / "experiment" / "best.yaml"
    head = f"# @package _global_\n# {about}\n# {command}\n"
    listed = OmegaConf.to_yaml({"defaults": defaults})
    write_whole(path, f"{head}{listed}\n{OmegaConf.to_yaml(content)}")
    return command


def _experiment(overrides: Sequence[Override], loader: ConfigLoader) -> tuple[DictConfig, list[Any], list[str]]:
    """Values, entries of a defaults list, and overrides that only a command line can give."""
    content = OmegaConf.create({})
    base: list[Any] = []
    groups: list[Any] = []
    rest = []
    empty = _empty_groups(loader)
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if key == "sweep" and override.package is None:  # its values, not its sweeper: -m with the best is no study
            content = OmegaConf.merge(_values_of(f"sweep/{override.value()}", loader), content)
        elif key == "experiment" and override.package is None:
            base = [str(override.value())]
        elif override.is_delete() or override.package is not None:
            rest.append(line)
        elif loader.get_group_options(key):
            if override.is_add() or override.is_force_add() or key in empty:
                rest.append(line)
            else:
                groups.append({f"override /{key}": override.value()})
        else:
            OmegaConf.update(content, key, override.value(), force_add=True)
    assert isinstance(content, DictConfig)
    return content, [*base, "_self_", *groups], rest


def _empty_groups(loader: Any) -> set[str]:
    """Groups that train.yaml lists with null: Hydra lets only a command line choose of them."""
    found = loader.repository.load_config("train.yaml")
    return {each.group for each in found.defaults_list if getattr(each, "value", "") is None} if found else set()


def _values_of(path: str, loader: Any) -> DictConfig:
    found = loader.repository.load_config(f"{path}.yaml")
    values = OmegaConf.create({} if found is None else OmegaConf.to_container(found.config, resolve=False))
    assert isinstance(values, DictConfig)
    for key in ("hydra", "defaults"):
        values.pop(key, None)
    return values
