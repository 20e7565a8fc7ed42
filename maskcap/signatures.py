"""What a `_target_` is, which arguments it takes, and whether a value from YAML fits an annotation."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import enum
import functools
import importlib
import inspect
import os
import pathlib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from maskcap.errors import ConfigError

OTHERS = ("torch", "lightning", "transformers")
TRUSTED = ("maskcap", *OTHERS)
# What a configuration may build of the others, by the names of the base classes.
KINDS = ("Module", "Optimizer", "LRScheduler", "Trainer", "Callback", "Logger", "Strategy", "Profiler")
KINDS += ("CheckpointIO", "ClusterEnvironment", "Precision", "PreTrainedConfig")


@dataclasses.dataclass(frozen=True)
class Signature:
    """The arguments of a target: name → annotation. `open`: it takes any further ones (`**kwargs`)."""

    arguments: dict[str, Any]
    required: tuple[str, ...]
    open: bool


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates that look most like `name`, best first; a shared last part of a dotted path counts too."""
    names = list(dict.fromkeys(candidates))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.6)
    tail = name.rpartition(".")[2]
    tails = [other for other in names if other.rpartition(".")[2] == tail and other not in close]
    return (close + tails)[:count]


def did_you_mean(name: str, candidates: Iterable[str], parent: str = "") -> str:
    """`; did you mean 'a' or 'b'?`, or nothing; `parent` is put before each name, as in `parent.a`."""
    close = [f"{parent}.{other}" if parent else other for other in nearest(name, candidates)]
    return f"; did you mean {' or '.join(repr(other) for other in close)}?" if close else ""


def takes(owner: str, names: Sequence[str]) -> str:
    """`owner takes a, b`; the names are left out where there are too many to read."""
    if len(names) > 16:
        return f"{owner} takes {len(names)} other arguments"
    return f"{owner} takes {', '.join(names) or 'no arguments'}"


def locate(target: object, where: str, trusted: Sequence[str] = ()) -> Callable[..., Any]:
    """Import what `_target_: package.module.name` names.

    Raises ConfigError when it is not a string, is not of a trusted package (nor defined in one: `torch.os.system`
    is refused), does not exist or cannot be called. Of torch, lightning and transformers only classes of the kinds in
    `KINDS` are taken: `torch.hub.load` would run what it loads. `where` is the key, for the message.
    """
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{where}._target_ must be the full name of a class or function, not {target!r}")
    packages = (*TRUSTED, *trusted)
    if target.partition(".")[0] not in packages:
        raise ConfigError(
            f"{where}._target_: {target} is not of a trusted package ({', '.join(packages)}). "
            f"If it is your own code: trusted_targets=[{target.partition('.')[0]}]"
        )
    found = _import(target, where)
    home = getattr(found, "__module__", None)
    if not isinstance(home, str) or home.partition(".")[0] not in packages:
        raise ConfigError(f"{where}._target_: {target} is defined in {home}, which is not a trusted package")
    if not callable(found):
        raise ConfigError(f"{where}._target_: {target} is a {type(found).__name__}, not a class or function")
    package = home.partition(".")[0]
    if package in OTHERS and package not in trusted and not _is_of_a_kind(found):
        raise ConfigError(
            f"{where}._target_: {target} is none of what a configuration may build of {package}: a class of "
            f"{', '.join(KINDS)}. A function of your own may call it: trusted_targets=[yourpackage]"
        )
    return found


def _is_of_a_kind(found: Any) -> bool:
    """By the names of its bases, so that nothing is imported to tell."""
    bases = found.__mro__ if isinstance(found, type) else ()
    return any(base.__name__ in KINDS for base in bases if base.__module__.partition(".")[0] in OTHERS)


def _import(target: str, where: str) -> Any:
    """Import the longest prefix that is a module, then follow attributes."""
    parts = target.split(".")
    module, used = None, 0
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        try:
            module, used = importlib.import_module(name), end
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise ConfigError(f"{where}._target_: importing {name} failed: {error}") from error
            break
    if module is None:
        raise ConfigError(f"{where}._target_: there is no package {parts[0]!r}")
    found: Any = module
    for part in parts[used:]:
        if not hasattr(found, part):
            home = getattr(found, "__name__", str(found))
            raise ConfigError(f"{where}._target_: {home} has no {part!r}{did_you_mean(part, _public(found))}")
        found = getattr(found, part)
    return found


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]


def signature(target: Callable[..., Any]) -> Signature:
    """The arguments of a class or function, with their annotations resolved where that is possible.

    `**kwargs` of a class of maskcap that extends another one of maskcap are the other one's arguments.
    """
    hints = _hints(target)
    arguments, required, is_open = {}, [], False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            arguments[name] = hints.get(name, Any)
            if parameter.default is inspect.Parameter.empty:
                required.append(name)
    base = target.__mro__[1] if inspect.isclass(target) else object
    if is_open and base.__module__.partition(".")[0] == "maskcap":
        inherited = signature(base)
        return Signature(inherited.arguments | arguments, tuple(required), inherited.open)
    return Signature(arguments, tuple(required), is_open)


@functools.cache
def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations; one whose names exist for type checkers only is left out, and not checked."""
    function: Any = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(alone, globalns=getattr(function, "__globals__", {}))
        except (NameError, TypeError, AttributeError):
            continue
    return hints


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; anything else is its own only one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(leaf for member in typing.get_args(annotation) for leaf in members(member))
    return (annotation,)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value of YAML (None, bool, int, float, str, list, dict) may be passed where `annotation` stands.

    A mapping with `_target_` fits every annotation that is a class, a protocol or a callable.
    """
    return any(_fits_one(value, member) for member in members(annotation))


def _fits_one(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    kind: Any = origin or annotation
    if kind is typing.Annotated:
        return fits(value, arguments[0])
    if kind in (Any, object) or isinstance(kind, typing.TypeVar):
        return True
    if kind in (None, types.NoneType):
        return value is None
    if kind is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if not isinstance(kind, type):
        return True  # an annotation that we cannot judge
    if kind in (bool, int, float, str):
        return _fits_scalar(value, kind)
    if kind in (collections.abc.Callable, type):
        return _is_node(value)
    if kind is os.PathLike or issubclass(kind, pathlib.PurePath):
        return isinstance(value, str)
    if issubclass(kind, enum.Enum):
        return value in [member.value for member in kind]
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if _is_node(value):
        return True
    if issubclass(kind, collections.abc.Mapping):
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values() if arguments)
    if issubclass(kind, collections.abc.Iterable) and kind.__module__ in ("collections.abc", "builtins"):
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value if arguments)
    return dataclasses.is_dataclass(kind) and isinstance(value, dict)


def _fits_scalar(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def describe(annotation: Any) -> str:
    """An annotation in words a user of YAML knows: `int or null`, `one of 'nearest', 'area'`, `a list of float`."""
    return " or ".join(dict.fromkeys(_describe_one(member) for member in members(annotation)))


def _describe_one(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    kind: Any = origin or annotation
    if kind is types.NoneType:
        return "null"
    if kind is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if kind is collections.abc.Callable:
        return "a mapping with _target_ and _partial_: true"
    if not isinstance(kind, type):
        return str(annotation)
    if kind in (bool, int, float, str):
        return kind.__name__
    if kind is os.PathLike or issubclass(kind, pathlib.PurePath):
        return "a path"
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(describe(each) for each in arguments)}"
    if issubclass(kind, collections.abc.Mapping):
        return "a mapping" + (f" of {describe(arguments[1])}" if arguments else "")
    if issubclass(kind, collections.abc.Iterable) and kind.__module__ in ("collections.abc", "builtins"):
        return "a list" + (f" of {describe(arguments[0])}" if arguments else "")
    return f"a {kind.__name__} (a mapping with _target_)"
