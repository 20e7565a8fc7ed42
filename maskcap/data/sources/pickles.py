"""Unpickling without running code: only lists, tuples, dicts, strings, bytes, numbers, booleans and None."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from maskcap.errors import DataError


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain values, written by Python 2 or 3; every byte string becomes text: UTF-8, or else Latin-1.

    Raises DataError naming the file for a missing or damaged file, and for a pickle that names any global (a class or
    function): that is how a pickle runs code. Use it on data, still: a hostile file can make it take much memory.
    """
    try:
        with open(path, "rb") as file:
            # encoding="bytes" keeps Python 2's strings as they are, so that each is decoded by itself below.
            loaded = _PlainUnpickler(file, path).load()
        return _as_text(loaded, {})
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except DataError:
        raise
    except (
        Exception
    ) as error:  # damaged bytes make the unpickler raise almost anything: EOFError, IndexError, TypeError …
        raise DataError(f"{path}: not a readable pickle ({type(error).__name__}: {error}). Fetch it again.") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path):
        super().__init__(file, fix_imports=False, encoding="bytes")
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Refuses every global but the one that plain byte strings need; raises DataError."""
        if (module_name, global_name) == ("_codecs", "encode"):
            return _latin1_bytes  # how Python 3 writes bytes for Python 2
        self._refuse(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuses; raises DataError."""
        self._refuse("a persistent id")

    def _refuse(self, name: str) -> NoReturn:
        raise DataError(
            f"{self._path}: the pickle holds {name}; only lists, tuples, dicts, strings, bytes, numbers, booleans and "
            "None are allowed, because anything else can run code. Fetch the file from its publisher, or write plain "
            "values."
        )


def _latin1_bytes(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _decode(text: bytes | bytearray) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _as_text(value: Any, seen: dict[int, Any]) -> Any:
    """A copy with bytes decoded. What is shared stays shared (`seen`): a small file cannot unfold into a huge value."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, (bytes, bytearray)):
        return seen.setdefault(id(value), _decode(value))
    if isinstance(value, list):
        copy = seen[id(value)] = []
        copy.extend(_as_text(item, seen) for item in value)
        return copy
    if isinstance(value, dict):
        table = seen[id(value)] = {}
        table.update((_as_text(key, seen), _as_text(item, seen)) for key, item in value.items())
        return table
    if isinstance(value, tuple):
        return seen.setdefault(id(value), tuple(_as_text(item, seen) for item in value))
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"holds a {type(value).__name__}")
