"""A plain folder as a user may have it, written with numpy and Pillow alone, and the masks that were drawn into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskcap.data.rle import decode_mask

HEIGHT, WIDTH = 24, 40


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[top:bottom, left:right] = 1
    return drawn


ONE, TWO, THREE = box(2, 3, 9, 12), box(11, 5, 20, 30), box(0, 30, 24, 40)


def line(image: str, mask: str, caption: Any, **more: Any) -> dict[str, Any]:
    return {"image": image, "mask": mask, "caption": caption, **more}


LINES = [
    line("binary.jpg", "binary.png", "the box"),
    line("binary.jpg", "binary.png", "a red box"),
    line("index.png", "index.png#2", "the wide one"),
    line("images/apart.jpeg", "masks/apart/b.png", "the tall one"),
]


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30] + [7] * (253 * 3))
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)


def write_plain(folder: Path) -> Path:
    """Images with every form of mask, and captions of some."""
    for number, name in enumerate(("binary.jpg", "index.png", "apart.jpeg", "silent.JPG")):
        save(folder / "images" / name, np.full((HEIGHT, WIDTH, 3), 50 * number, np.uint8))
    save(folder / "masks" / "binary.png", 255 * ONE)
    save(folder / "masks" / "index.png", ONE + 2 * TWO)
    save(folder / "masks" / "apart" / "a.png", 255 * TWO, "1")
    save(folder / "masks" / "apart" / "b.png", THREE)
    save(folder / "masks" / "silent.png", ONE * 7)
    write(folder, LINES)
    return folder


def write(root: Path, lines: list[Any]) -> None:
    (root / "captions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


def masks_of(record: Any) -> dict[str, np.ndarray]:
    return {region.id: decode_mask(region.mask, HEIGHT, WIDTH) for region in record.regions1}
