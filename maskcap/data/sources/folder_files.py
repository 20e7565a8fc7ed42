"""The plain folder's files: which masks lie beside which image, and what `captions.jsonl` says of them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import LAYOUT_HELP, require
from maskcap.data.sources.json_entries import caption_of, read_lines
from maskcap.errors import DataError

CAPTIONS = "captions.jsonl"
_ENDINGS = (".jpg", ".jpeg", ".png")
_KEYS = ("image", "mask", "caption")


@dataclass
class Scene:
    """One image (None: missing) and what belongs to it by name.

    index: its mask PNG, binary or an index image. singles: the PNGs in its folder of masks, an object each.
    captions: what is said of each mask, by its name as `captions.jsonl` writes it. problems: what is wrong with it.
    """

    image: Path | None = None
    index: Path | None = None
    singles: list[Path] = field(default_factory=list)
    captions: dict[str, list[str]] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)

    @property
    def masks(self) -> dict[str, Path]:
        """Name of each mask file, below `masks/` → its path."""
        singles = {f"{path.parent.name}/{path.name}": path for path in self.singles}
        return singles if self.index is None else {self.index.name: self.index, **singles}


def list_scenes(root: Path, skipped: Counter[str]) -> dict[str, Scene]:
    """Name → its image and masks, by name. `skipped` counts files that are neither. Raises DataError: no images."""
    scenes: dict[str, Scene] = {}
    for path in _inside(root / "images"):
        if path.suffix.lower() not in _ENDINGS:
            skipped["files in images/ that are no .jpg or .png"] += 1
            continue
        scene = scenes.setdefault(path.stem, Scene(path))
        if scene.image != path:
            message = f"{path}: {scene.image} has the same name, and the masks may be of either. Rename one."
            scene.problems.append(DataError(message, "duplicate key"))
    if not scenes:
        message = f"{root / 'images'}: no images ({', '.join(_ENDINGS)}) there. Set data.root; {LAYOUT_HELP}."
        raise DataError(message, "missing file")
    for path in _inside(root / "masks"):
        found = _inside(path) if path.is_dir() else [path]
        masks = [each for each in found if each.suffix.lower() == ".png"]
        skipped["files in masks/ that are no .png"] += len(found) - len(masks)
        if masks and path.is_dir():
            _scene_of(scenes, path.name, path).singles += masks
        elif masks:
            _scene_of(scenes, path.stem, path).index = path
    return dict(sorted(scenes.items()))


def add_captions(scenes: dict[str, Scene], path: Path) -> dict[str, DataError]:
    """Lay the lines of a `captions.jsonl` over the scenes: each says one thing of one mask. No such file: nothing.

    A wrong line is a problem of its image's scene; returned are those that name no image there, by file and line.
    """
    lost: dict[str, DataError] = {}
    by_image = {scene.image.name: scene for scene in scenes.values() if scene.image is not None}
    for number, line in read_lines(path) if path.exists() else []:
        where, scene = f"{path}, line {number}", None
        try:
            if isinstance(line, DataError):
                raise line
            require(isinstance(line, dict), where, f"expected an object with {', '.join(_KEYS)}")
            scene = by_image.get(_bare(line.get("image"), "images"))
            name, caption = _read_line(line, where)
            problem = f"there is no image {line['image']!r} in {path.parent / 'images'}. Add it, or correct the line"
            require(scene is not None, where, problem, "missing file")
            assert scene is not None
            _check_mask(scene, name, where)
            scene.captions.setdefault(name, []).append(caption)
        except DataError as error:
            if scene is None:
                lost[f"{path.name}:{number}"] = error
            else:
                scene.problems.append(error)
    return lost


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files; nothing where there is no such folder."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _scene_of(scenes: dict[str, Scene], name: str, mask: Path) -> Scene:
    scene = scenes.setdefault(name, Scene())
    if scene.image is None:
        message = (
            f"{mask}: there is no image {name} ({', '.join(_ENDINGS)}) for it in images/. Add it, or remove the mask."
        )
        scene.problems.append(DataError(message, "missing file"))
    return scene


def _read_line(line: dict[str, Any], where: str) -> tuple[str, str]:
    """(name of the mask, caption)."""
    unknown = sorted(set(line) - set(_KEYS))
    require(not unknown, where, f"unknown key {', '.join(map(repr, unknown))}; keys are {', '.join(_KEYS)}")
    for name in ("image", "mask"):
        require(isinstance(line.get(name), str), where, f"{name!r} must be a file name")
    return _bare(line["mask"], "masks"), caption_of(line.get("caption"), "'caption'", where)


def _bare(name: Any, folder: str) -> str:
    return name.replace("\\", "/").removeprefix("./").removeprefix(f"{folder}/") if isinstance(name, str) else ""


def _check_mask(scene: Scene, name: str, where: str) -> None:
    """Whether the named mask is one of the scene's; which values an index image has is known when it is read."""
    file, mark, value = name.rpartition("#")
    of_index = scene.index is not None and bool(mark) and file == scene.index.name and value.isdecimal()
    if name not in scene.masks and not of_index:
        assert scene.image is not None
        there = f"its masks: {', '.join(scene.masks) or 'none'}"
        problem = f"the image {scene.image.name} has no mask {name!r}; {there}. Correct the line, or add the mask"
        raise DataError(f"{where}: {problem}.", "missing mask")
