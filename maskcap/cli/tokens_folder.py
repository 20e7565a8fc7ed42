"""The folder that `maskcap tokens` writes a picture's or a data set's results to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from maskcap.errors import ConfigError

_WRITTEN = {"overlap.json": ("crops.png", "tilings.png", "samples.png"), "patches.json": ("patches.png",)}
_CROP = re.compile(r"\d{2,}_(global|r\d+_c\d+)\.png")
_LINES = re.compile(r"\[\n[^\[\]{}\"]*\]")  # a list of numbers over several lines; text holds no line breaks in JSON


def make_folder(folder: Path) -> None:
    """Make it, and take out what an earlier call wrote: it may be of another picture. Other files stay.

    Raises ConfigError when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; out=… names another folder") from error
    for numbers, pictures in _WRITTEN.items():
        if (folder / numbers).is_file():  # without it a samples.png may be anybody's
            for name in (*pictures, numbers):
                (folder / name).unlink(missing_ok=True)
    crops = folder / "crops"
    if crops.is_dir():
        for earlier in crops.iterdir():
            if _CROP.fullmatch(earlier.name):
                earlier.unlink()
        if not any(crops.iterdir()):
            crops.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with each list of numbers on one line. Raises ValueError for a number that is not finite."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    text = _LINES.sub(lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
