"""What is wrong with an override that Hydra refused, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import OverrideParseException

from maskcap.errors import ConfigError
from maskcap.signatures import did_you_mean, locate, signature, takes


def explain(error: Exception, folder: str, config_name: str, arguments: Sequence[str]) -> str:
    """One or two lines for an error of Hydra's; with the nearest valid names where a key or choice is unknown."""
    message = str(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        return _unknown_key(unknown.group(1), folder, config_name, arguments)
    choice = re.search(r"Could not (?:find|load) '([\w/@+.-]+)'", message)
    if choice:
        return _unknown_choice(choice.group(1), message)
    if isinstance(error, OverrideParseException):
        why = message.partition(" expecting")[0].splitlines()[0]
        return f"{error.override!r} is not key=value ({why}); quote values with special characters: 'key=\"a, b\"'"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:3])


def _unknown_choice(path: str, message: str) -> str:
    group, _, name = path.rpartition("/")
    listed = message.partition("Available options")[2].partition("Config search path")[0]
    options = [line.strip() for line in listed.splitlines()[1:] if line.strip()]
    return f"there is no {group}={name}{did_you_mean(name, options) or '.'} Choices: {', '.join(options) or 'none'}"


def _unknown_key(key: str, folder: str, config_name: str, arguments: Sequence[str]) -> str:
    config = _compose_without(key, folder, config_name, arguments)
    if config is None:
        return f"unknown key '{key}'"
    parent, _, name = key.rpartition(".")
    node = _select(config, parent)
    if isinstance(node, dict) and "_target_" in node:
        owner = str(node["_target_"])
        known = _arguments_of(owner, parent, config)
        if name in known:
            value = next((a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")), "…")
            return f"{key} is not in the configuration files, but {owner} takes it: +{key}={value} sets it"
        having = _choices_with(name, folder, parent)
        if having:
            return f"unknown key '{key}': {' and '.join(f'{parent}={each}' for each in having)} has it, choose that too"
        near = did_you_mean(name, [*(key for key in node if not key.startswith("_")), *known], parent)
        if near:
            return f"unknown key '{key}'{near} {takes(owner, known)}"
    return f"unknown key '{key}'{did_you_mean(key, _keys(config)) or '; --cfg job prints every key there is'}"


def _choices_with(name: str, folder: str, group: str) -> list[str]:
    """The group's choices whose file has this key."""
    from omegaconf import OmegaConf

    files = sorted(Path(folder, *group.split(".")).glob("*.yaml"))
    found = []
    for file in files:
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        inner = values.get(group) if isinstance(values, dict) else None
        if name in (inner if isinstance(inner, dict) else values or ()):
            found.append(file.stem)
    return found


def _compose_without(key: str, folder: str, config_name: str, arguments: Sequence[str]) -> dict[str, Any] | None:
    """The configuration without the override of `key`, unresolved; None when that cannot be composed either."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    others = [a for a in arguments if "=" in a and a[0] != "-" and a.lstrip("+~").partition("=")[0] != key]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(folder, version_base="1.3"):
            composed = compose(config_name, overrides=others)
    except HydraException:
        return None
    return OmegaConf.to_container(composed, resolve=False)  # type: ignore[return-value]


def _arguments_of(target: str, where: str, config: dict[str, Any]) -> list[str]:
    try:
        return list(signature(locate(target, where, config.get("trusted_targets") or [])).arguments)
    except (ConfigError, ValueError):
        return []


def _select(config: Any, path: str) -> Any:
    for part in path.split(".") if path else []:
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _keys(config: Any, path: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            where = f"{path}.{key}" if path else str(key)
            yield where
            yield from _keys(value, where)
