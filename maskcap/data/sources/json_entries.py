"""What layouts share that are a list of entries in one file: reading it, and a key for each entry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import LAYOUT_HELP, field, read_json, require
from maskcap.errors import DataError


def read_lines(path: Path) -> list[tuple[int, Any]]:
    """(line number from 1, value or the DataError of a line that is not JSON) of a jsonl; blank lines are left out.

    Raises DataError for a file that is missing, or cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {LAYOUT_HELP}.", "missing file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).", "unreadable annotation") from error
    # Only line feeds end a line: str.splitlines knows others, which may stand in a caption.
    return [(number, _value(line, path, number)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_entries(path: Path) -> list[Any]:
    """The entries of a JSON list, or of a `.jsonl` with one on each line (a DataError for a line that is no JSON).

    Raises DataError for a missing or unreadable file, something else than a list, and an empty one.
    """
    entries = [value for _, value in read_lines(path)] if path.suffix == ".jsonl" else read_json(path)
    require(isinstance(entries, list) and bool(entries), path, "expected a list of entries that is not empty")
    return entries


def keyed(entries: list[Any], prefix: str, path: Path) -> Iterator[tuple[str, str, Any]]:
    """(key, name for messages, entry) of each entry: `"<prefix>/<file stem>/<its id, else its number from 0>"`.

    An id that comes again has `#2`, `#3` … behind it.
    """
    names = distinct(entry.get("id", i) if isinstance(entry, dict) else i for i, entry in enumerate(entries))
    for i, (name, entry) in enumerate(zip(names, entries, strict=True)):
        key = f"{prefix}/{path.stem}/{name}"
        yield key, f"{key} ({path}, entry {i})", entry


def names_in(entries: Iterable[Any], field_name: str) -> Iterator[str]:
    """The file names that entries have in a field; those that have none there are named when they are read."""
    return (
        entry[field_name] for entry in entries if isinstance(entry, dict) and isinstance(entry.get(field_name), str)
    )


def checked(entry: Any, where: str, *fields: str) -> dict[str, Any]:
    """An entry of `read_entries` that is an object with these fields. Raises DataError, that of its line first."""
    if isinstance(entry, DataError):
        raise entry
    require(isinstance(entry, dict), where, f"expected an object with {', '.join(map(repr, fields))}")
    for name in fields:
        field(entry, name, where)
    return entry


def distinct(names: Iterable[object]) -> list[str]:
    """The names as text, told apart: the second one of a name gets `#2`, the third `#3` … No two are the same."""
    times: dict[str, int] = {}
    told: dict[str, None] = {}  # in order
    for name in map(str, names):
        each = name
        while each in told:  # "a#2" may be there as a name of its own
            times[name] = times.get(name, 1) + 1
            each = f"{name}#{times[name]}"
        told[each] = None
    return list(told)


def caption_of(value: Any, what: str, where: object) -> str:
    """`value`, if it is a text that is not empty. Raises DataError, "empty caption" for one that is."""
    require(isinstance(value, str), where, f"{what} must be a text. Correct the file")
    if not value.strip():
        raise DataError(f"{where}: {what} is empty. Write it, or remove it.", "empty caption")
    return value


def _value(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(f"{path}, line {number}: not valid JSON ({error}). Correct the line.", "unreadable annotation")
