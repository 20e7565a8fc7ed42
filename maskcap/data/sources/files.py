"""What the sources share: folders, JSON files and image names, with messages that say where was looked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maskcap.errors import DataError

LAYOUT_HELP = "data/README.md says how each data set is laid out and where to get it"
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
_COCO_PREFIXES = ("COCO_train2014_", "COCO_val2014_")


def first_existing(candidates: Iterable[Path], what: str) -> Path:
    """The first candidate that exists. Raises DataError that lists them all."""
    tried = list(dict.fromkeys(candidates))
    for path in tried:
        if path.exists():
            return path
    places = ", ".join(str(path) for path in tried)
    raise DataError(f"{what} not found. Looked for: {places}. Set the right folder; {LAYOUT_HELP}.", "missing file")


def layout_folder(root: str | Path, layout: str, split: str, split_names: Sequence[str], what: str) -> Path:
    """Folder of one split of a layout that is published without split files.

    `root` is the folder of all data sets or the layout's own (`root/<layout>` is taken if it exists). A split is a
    sub-folder named `<split>` or `<layout>_<split>`. Without any such sub-folder all data is "train". Raises DataError.
    """
    folder = first_existing([Path(root) / layout, Path(root)], what)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with {what}, found a file. {LAYOUT_HELP}.")
    splits = {
        name: folder / form for name in split_names for form in (f"{layout}_{name}", name) if (folder / form).is_dir()
    }
    if split in splits:
        return splits[split]
    if splits or split != "train":
        there = ", ".join(splits) or "train (there are no sub-folders for splits)"
        raise DataError(f"{folder}: {what} has no split {split!r}; splits there: {there}.")
    return folder


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError naming it."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {LAYOUT_HELP}.", "missing file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.", "unreadable annotation") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Fetch it again.", "unreadable annotation") from error


def integer(value: Any, name: str, where: object) -> int:
    """A JSON number that must be whole; SA-V writes sizes as 848.0. Raises DataError."""
    whole = isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and value.is_integer()
    if not whole or value < 0:
        raise DataError(f"{where}: {name!r} must be a whole number ≥ 0, got {str(value)[:40]!r}.")
    return int(value)


def list_of(item: type, value: Any, what: str, where: object) -> list[Any]:
    """`value`, if it is a list of `item`s. Raises DataError otherwise, saying what it should be."""
    if not isinstance(value, list) or not all(isinstance(entry, item) for entry in value):
        names = {dict: "objects", list: "lists", str: "texts"}
        raise DataError(f"{where}: {what} must be a list of {names[item]}. Correct the file, or fetch it again.")
    return value


def field(container: Any, name: str, where: object) -> Any:
    """`container[name]` of a JSON object. Raises DataError if it is no object or has no such field."""
    if not isinstance(container, dict) or name not in container:
        raise DataError(f"{where}: expected an object with {name!r}. Correct the file, or fetch it again.")
    return container[name]


def require(condition: bool, where: object, problem: str, reason: str | None = None) -> None:
    """Raise DataError naming `where` unless the condition holds; reason None: a malformed record."""
    if not condition:
        raise DataError(f"{where}: {problem}{'' if problem.endswith('?') else '.'}", reason)


def some(names: Sequence[object], limit: int = 3) -> str:
    """The first few names for a message, and how many there are: `a, b, c (12 in all)`."""
    listed = ", ".join(str(name) for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} … ({len(names)} in all)"


class ImageFolders:
    """Finds image files by name in folders and their COCO sub-folders, by one directory listing each.

    A name is looked for as given and by its last part, and both with and without the `COCO_train2014_` and
    `COCO_val2014_` prefixes. keep_folder: a name with a folder in it is looked for in that folder alone (several sets
    may have a `1.jpg`). exact: only as given. Absolute names, and those with `..` in them, are nowhere.
    """

    def __init__(
        self, folders: str | Path | Sequence[str | Path], *, exact: bool = False, keep_folder: bool = False
    ) -> None:
        self._exact, self._keep_folder = exact, keep_folder
        given = [folders] if isinstance(folders, (str, Path)) else list(folders)
        self.folders = [Path(folder) for folder in given]
        for folder in self.folders:
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder of images. Set the images' folder; {LAYOUT_HELP}.")
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """Path of the image, or None."""
        parent, slash, base = name.replace("\\", "/").rpartition("/")
        if _leaves(name):
            return None
        bare = base
        for prefix in _COCO_PREFIXES:
            bare = bare.removeprefix(prefix)
        names = dict.fromkeys((base, bare, *(prefix + bare for prefix in _COCO_PREFIXES)))
        below = dict.fromkeys((parent, "", *_COCO_FOLDERS))
        if self._exact:
            names = {base: None}
        if self._exact or self._keep_folder and slash:
            below = {parent: None}
        for folder in self.folders:
            for sub in below:
                listing = self._listing(folder / sub)
                for candidate in names:
                    if candidate in listing:
                        return folder / sub / candidate
        return None

    def find_all(self, names: Iterable[str], where: object) -> dict[str, Path]:
        """Name → path of those that are there. Raises DataError when none is: then the folders are the wrong ones."""
        found = {name: self.find(name) for name in dict.fromkeys(names)}
        if found and not any(found.values()):
            raise DataError(
                f"{where}: {len(found)} of {len(found)} images are missing: {some(list(found))}. {self._looked()} "
                f"Fetch them or set the images' folder; {LAYOUT_HELP}.",
                "missing file",
            )
        return {name: path for name, path in found.items() if path is not None}

    def missing(self, name: str, where: object, what: str = "image") -> DataError:
        """The error for an image (or other file: `what`) that `find` does not find."""
        if _leaves(name):
            problem = f"the {what} {name!r} is not in the folder. Write its path from there, without a leading / and .."
            return DataError(f"{where}: {problem}.", "missing file")
        message = f"{where}: the {what} {name} is missing. {self._looked()} Fetch it, or remove what is said of it."
        return DataError(message, "missing file")

    def _looked(self) -> str:
        places = ", ".join(str(folder) for folder in self.folders)
        return f"Looked in {places}" + ("." if self._exact else f" and sub-folders {', '.join(_COCO_FOLDERS)}.")

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            try:
                # os.path's: Path.is_dir raises for a name that is too long.
                self._listings[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
            except OSError as error:
                raise DataError(f"{folder}: cannot be listed: {error.strerror}.", "missing file") from error
        return self._listings[folder]


def _leaves(name: str) -> bool:
    """Whether a name may lead out of the folder that it is looked for in."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or len(parts) > 1 and not parts[0]
