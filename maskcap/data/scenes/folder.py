"""Drawn scenes as a plain folder, as a user's own data may lie:

python -m maskcap.data.scenes.folder my_images --images 20
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskcap.data.scenes.grammar import format_phrase
from maskcap.data.scenes.make import SMALLEST
from maskcap.data.scenes.scene import Scene, Split, make_scene
from maskcap.errors import ConfigError, DataError, MaskcapError

_SPLIT = Split("folder", "all", {"random": 1.0}, 1)
_QUALITY = 95  # of the JPEGs
_UNTOLD = 8  # every so many-th image has masks alone


def write_folder(out: str | Path, *, images: int = 20, size: int = 256, seed: int = 0) -> Path:
    """Draw scenes of 2 to 5 objects into `out`: `images/`, `masks/` and `captions.jsonl`; returns `out`.

    Masks are index images (value k is object k), of every fourth scene a folder with a PNG for each object. Objects
    have a line with their place and, where that is enough, one without; those of every eighth scene have none. `size`
    is the side in pixels. The same arguments write the same bytes.

    Raises ConfigError for fewer than one image or less than 64 pixels, DataError when `out` has something in it.
    """
    folder = Path(out)
    if images < 1 or size < SMALLEST or seed < 0:
        problem = f"write_folder: needs images ≥ 1, size ≥ {SMALLEST} and seed ≥ 0, got {images}, {size} and {seed}"
        raise ConfigError(problem)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: there is something already, and nothing is overwritten. Choose another folder.")
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    lines: list[dict[str, str]] = []
    for number in range(images):
        name = f"scene_{number + 1:0{max(3, len(str(images)))}d}"
        scene = make_scene(seed, _SPLIT, number, size)
        masks = _write_scene(folder, name, scene, apart=number % 4 == 3)
        if number % _UNTOLD != _UNTOLD - 1:
            lines += [{"image": f"{name}.jpg", **line} for line in _lines(scene, masks)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


def _write_scene(folder: Path, name: str, scene: Scene, apart: bool) -> list[str]:
    """Write an image and its masks, `apart` from each other or as one index image; the masks' names for captions."""
    import simplejpeg
    from PIL import Image

    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(scene.image), quality=_QUALITY, colorsubsampling="444")
    (folder / "images" / f"{name}.jpg").write_bytes(jpeg)
    numbers = range(1, len(scene.masks) + 1)
    if apart:
        (folder / "masks" / name).mkdir()
        for number, mask in zip(numbers, scene.masks, strict=True):
            Image.fromarray(255 * mask).save(folder / "masks" / name / f"{number}.png")
        return [f"{name}/{number}.png" for number in numbers]
    values = np.zeros(scene.masks.shape[1:], np.uint8)
    for number, mask in zip(numbers, scene.masks, strict=True):
        values[mask > 0] = number
    Image.fromarray(values).save(folder / "masks" / f"{name}.png")
    return [f"{name}.png#{number}" for number in numbers]


def _lines(scene: Scene, masks: Sequence[str]) -> list[dict[str, str]]:
    objects = scene.composition.objects
    contents = Counter(each.content for each in objects)
    lines = []
    for mask, each in zip(masks, objects, strict=True):
        phrases = [format_phrase(each)] + [format_phrase(each, place=False)] * (contents[each.content] == 1)
        lines += [{"mask": mask, "caption": phrase} for phrase in phrases]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """`write_folder` from a command line; prints what to do next. Returns the exit code, 2 after an error."""
    parser = argparse.ArgumentParser("python -m maskcap.data.scenes.folder", description="Draw a small plain folder.")
    parser.add_argument("out", help="the folder; it is made, and must be empty if it is there")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        folder = write_folder(given.out, images=given.images, size=given.size, seed=given.seed)
    except MaskcapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.images} images in {folder}. Now: python train.py experiment=finetune_folder data.root={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
