"""The composed configuration, checked against the constructors that it names, before anything is built.

The signatures of the `_target_`s are the single source of truth. A key is valid when it is an argument of its
`_target_`, when the command's schema has it (top level), or when a `${...}` somewhere reads it: such a key is a
variable (`data.root`), and is left out when the object is built.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maskcap.errors import ConfigError
from maskcap.signatures import Signature, describe, did_you_mean, fits, locate, members, signature, takes


@dataclass(frozen=True)
class Node:
    """In a schema: a mapping with `_target_`."""


@dataclass(frozen=True)
class Nodes:
    """In a schema: a mapping of names to nodes; null instead of a node switches it off."""


@dataclass(frozen=True)
class Variables:
    """In a schema: a mapping of values that other parts of the configuration read by `${...}`."""


Schema = Mapping[str, Any]  # top-level key → annotation, Node(), Nodes(), Variables(), or a schema of its own

_SPECIAL = ("_target_", "_partial_")
_WHOLE = re.compile(r"\$\{([\w@-]+(?:\.[\w@-]+)*)\}")  # ${a.b}
_RELATIVE = re.compile(r"\$\{(\.+)([\w@-]+(?:\.[\w@-]+)*)\}")  # ${.b}, ${..b}


@dataclass(frozen=True)
class CheckedConfig:
    """A configuration that passed `check_config`: plain values, interpolations resolved, variables removed."""

    values: dict[str, Any]
    trusted: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def build(self, key: str, **extra: Any) -> Any:
        """Build the object, or the mapping of objects, at top-level `key`; `extra` are further arguments of it."""
        value = self.values[key]
        return self._build(value | extra if extra else value, key)

    def _build(self, value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [self._build(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        built = {key: self._build(item, f"{where}.{key}") for key, item in value.items() if key not in _SPECIAL}
        if "_target_" not in value:
            return built
        target = locate(value["_target_"], where, self.trusted)
        return functools.partial(target, **built) if value.get("_partial_") else target(**built)


def check_config(config: DictConfig, schema: Schema) -> CheckedConfig:
    """Check a whole composed configuration; nothing is built, the targets' modules are imported.

    Raises ConfigError: a mandatory value not given, an interpolation that leads nowhere, an unknown key (with the
    nearest valid names), an argument that is missing, a wrong type (with what was expected), an untrusted or missing
    `_target_`.
    """
    require_values(config)
    raw = OmegaConf.to_container(config, resolve=False)
    resolved = _resolve(config)
    trusted = resolved.get("trusted_targets") or []
    if not fits(trusted, list[str]):
        raise ConfigError(f"trusted_targets must be a list of package names, not {trusted!r}")
    checker = _Checker(raw, interpolated(raw), tuple(trusted))
    return CheckedConfig(checker.mapping(resolved, schema), tuple(trusted))


def require_values(config: DictConfig) -> None:
    """Raises ConfigError that names the keys whose value is `???`, and how to give it."""
    missing = _missing(OmegaConf.to_container(config, resolve=False))
    if missing:
        key = missing[0]
        others = f" (nor are {', '.join(missing[1:])})" if missing[1:] else ""
        raise ConfigError(f"{key} is not set{others}: give it on the command line, {key}=…, or in a config file")


def _resolve(config: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key or 'the configuration'} cannot be resolved: {message}") from error


def _missing(raw: Any, path: str = "") -> list[str]:
    """Keys whose value is `???`, to be given."""
    if isinstance(raw, dict):
        return [key for name, value in raw.items() for key in _missing(value, _join(path, name))]
    if isinstance(raw, list):
        return [key for index, value in enumerate(raw) for key in _missing(value, f"{path}[{index}]")]
    return [path] if raw == "???" else []


def interpolated(raw: Any, path: str = "") -> set[str]:
    """Every key that a `${...}` in the unresolved configuration reads."""
    if isinstance(raw, dict):
        return set().union(*(interpolated(value, _join(path, key)) for key, value in raw.items()))
    if isinstance(raw, list):
        return set().union(*(interpolated(value, f"{path}.{index}") for index, value in enumerate(raw)))
    if not isinstance(raw, str):
        return set()
    found = set(_WHOLE.findall(raw))
    for dots, name in _RELATIVE.findall(raw):
        parents = path.split(".")[: -len(dots)]
        found.add(".".join([*parents, name]))
    return found


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(raw: Any, path: str) -> Any:
    for part in path.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


class _Checker:
    """One walk over the resolved configuration; returns it without its variables."""

    def __init__(self, raw: Any, variables: set[str], trusted: tuple[str, ...]) -> None:
        self.raw = raw
        self.variables = variables
        self.trusted = trusted

    def mapping(self, values: dict[str, Any], schema: Schema, path: str = "") -> dict[str, Any]:
        """Check the top level (path ""), or a mapping with a schema of its own."""
        for key in values:
            if key not in schema and _join(path, key) not in self.variables:
                hint = did_you_mean(key, schema, path) or "."
                raise ConfigError(f"unknown key {_join(path, key)!r}{hint} Valid: {', '.join(schema)}")
        for key in schema:
            if key not in values:
                raise ConfigError(f"{_join(path, key)} is missing from the configuration")
        return {key: self._entry(values[key], schema[key], _join(path, key)) for key in values if key in schema}

    def _entry(self, value: Any, expected: Any, path: str) -> Any:
        if isinstance(expected, Node):
            return self._node(self._mapping(value, path), path)
        if isinstance(expected, Nodes):
            entries = {} if value is None else self._mapping(value, path)
            return {key: self._node(self._mapping(entry, _join(path, key)), _join(path, key))
                    for key, entry in entries.items() if entry is not None}  # fmt: skip
        if isinstance(expected, Mapping):
            return self.mapping(self._mapping(value, path), expected, path)
        if isinstance(expected, Variables):
            return self._variables(self._mapping(value, path), path)
        self._type(value, expected, path)
        return value

    def _mapping(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must be a mapping, not {value!r}")
        return value

    def _variables(self, values: dict[str, Any], path: str) -> dict[str, Any]:
        for key in values:
            if _join(path, key) not in self.variables:
                known = [name.removeprefix(f"{path}.") for name in self.variables if name.startswith(f"{path}.")]
                raise ConfigError(f"unknown key '{path}.{key}': nothing reads it{did_you_mean(str(key), known)}")
        return values

    def _node(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        if "_target_" not in node:
            raise ConfigError(f"{path} has no _target_: which class or function should be built?")
        partial = node.get("_partial_", False)
        if not isinstance(partial, bool):
            raise ConfigError(f"{path}._partial_ must be true or false, not {partial!r}")
        target = locate(node["_target_"], path, self.trusted)
        checked = self._arguments(node, signature(target), node["_target_"], path, complete=not partial)
        return {key: node[key] for key in _SPECIAL if key in node} | checked

    def _arguments(
        self, node: dict[str, Any], known: Signature, owner: str, path: str, *, complete: bool
    ) -> dict[str, Any]:
        checked = {}
        for key, value in node.items():
            where = _join(path, key)
            if key in _SPECIAL:
                continue
            if key in known.arguments:
                checked[key] = self._argument(value, known.arguments[key], where)
            elif where in self.variables:
                continue
            elif known.open and not str(key).startswith("_"):
                checked[key] = self._argument(value, Any, where)
            else:
                hint = did_you_mean(str(key), known.arguments, path) or "."
                raise ConfigError(f"unknown key {where!r}{hint} {takes(owner, list(known.arguments))}")
        absent = [name for name in known.required if name not in node]
        if complete and absent:
            raise ConfigError(f"{_join(path, absent[0])} is missing: {owner} needs {', '.join(absent)}")
        return checked

    def _argument(self, value: Any, annotation: Any, path: str) -> Any:
        source = _WHOLE.fullmatch(_at(self.raw, path) or "") if isinstance(_at(self.raw, path), str) else None
        path = source.group(1) if source else path  # name the place where the value is written, not where it is read
        checked = self._nested(value, annotation, path)
        self._type(value, annotation, path)
        return checked

    def _nested(self, value: Any, annotation: Any, path: str) -> Any:
        """Check nodes, and plain mappings that stand for a dataclass, inside an argument."""
        if isinstance(value, list):
            return [self._nested(item, Any, f"{path}.{index}") for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "_target_" in value:
            self._class(value, annotation, path)
            return self._node(value, path)
        for member in members(annotation):
            if inspect.isclass(member) and is_dataclass(member):
                checked = self._arguments(value, signature(member), member.__name__, path, complete=True)
                return {"_target_": f"{member.__module__}.{member.__qualname__}"} | checked
        inner = _value_annotation(annotation)
        return {key: self._argument(item, inner, _join(path, key)) for key, item in value.items()}

    def _class(self, node: dict[str, Any], annotation: Any, path: str) -> None:
        """A node that builds a class must build one that the argument takes, where the annotation tells."""
        target = locate(node["_target_"], path, self.trusted)
        classes = members(annotation)
        if node.get("_partial_") or not inspect.isclass(target) or not all(_is_plain_class(each) for each in classes):
            return
        if not issubclass(target, tuple(classes)):
            raise ConfigError(f"{path} must be {describe(annotation)}, not a {target.__name__}")

    def _type(self, value: Any, annotation: Any, path: str) -> None:
        if not fits(value, annotation):
            raise ConfigError(f"{path} must be {describe(annotation)}, not {_short(value)}")


def _is_plain_class(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation.__module__ != "builtins" and not _is_protocol(annotation)


def _is_protocol(annotation: Any) -> bool:
    return getattr(annotation, "_is_protocol", False)


def _value_annotation(annotation: Any) -> Any:
    """The annotation of a mapping's values: `Mapping[str, X]` → X."""
    for member in members(annotation):
        arguments: Sequence[Any] = getattr(member, "__args__", ())
        if len(arguments) == 2:
            return arguments[1]
    return Any


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
