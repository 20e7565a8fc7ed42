"""`make_scenes`: draw every split, write the layouts, all or nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskcap.data.scenes.notes import Job, SceneNote
from maskcap.data.scenes.osprey import write_osprey
from maskcap.data.scenes.parallel import draw_all
from maskcap.data.scenes.refcoco import write_refcoco
from maskcap.data.scenes.sa1b import write_sa1b
from maskcap.data.scenes.sav import write_sav
from maskcap.data.scenes.scene import SPLITS, Split
from maskcap.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

FORMAT = "maskcap scenes"
VERSION = 3  # raise it when the same arguments come to mean other files
SMALLEST = 64  # pixels a side: below, a small cross is a few pixels
_MANIFEST = "manifest.json"


def make_scenes(
    root: str | Path, *, seed: int = 0, train: int = 4000, val: int = 400, size: int = 256, workers: int = 2
) -> Path:
    """Draw scenes and write them under `root` as RefCOCO, RefCOCO+, Osprey, SA-1B and SA-V; returns `root`.

    Written: `train` scenes for RefCOCO and Osprey (shared images), half as many for RefCOCO+, a twentieth for SA-1B;
    `val` scenes for each held-out split (val, testA, testB of RefCOCO and RefCOCO+; Osprey's val is RefCOCO's); up
    to 16 short videos. `size` is the side in pixels. RefCOCO+'s val and testA are full of near-duplicates, its testB
    holds minimal pairs; RefCOCO's testB holds twins that only their place tells apart (see `compose`).

    The files depend on seed, train, val and size alone, byte for byte, not on `workers` (processes). `root` appears
    at once, when all is written; a second call with the same arguments returns at once, with others it rewrites.

    Raises ConfigError for impossible arguments, DataError when `root` holds something that this function didn't write.
    """
    root = Path(root)
    manifest = {"format": FORMAT, "version": VERSION, "seed": seed, "train": train, "val": val, "size": size}
    _check(seed=seed, train=train, val=val, size=size, workers=workers)
    if _present(root) == manifest:
        return root
    started = time.perf_counter()
    with _replacing(root, manifest) as folder:
        notes = _draw(folder, manifest, workers)
        _write_annotations(folder, notes)
        write_sav(folder / "sav", seed=seed, videos=max(2, min(16, train // 250)), size=size)
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    count = sum(len(split) for split in notes.values())
    logger.info("drew %d scenes into %s in %.1f s", count, root, time.perf_counter() - started)
    return root


def _check(*, seed: int, train: int, val: int, size: int, workers: int) -> None:
    least = {"seed": (seed, 0), "train": (train, 2), "val": (val, 1), "size": (size, SMALLEST), "workers": (workers, 0)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise ConfigError(f"make_scenes: {name} must be at least {minimum}, got {value}")


def _count(split: Split, train: int, val: int) -> int:
    if split.dataset == "sa1b":
        return max(2, train // 20)
    if split.name != "train":
        return val
    return train if split.dataset == "refcoco" else train // 2


def _draw(folder: Path, manifest: dict, workers: int) -> dict[str, list[SceneNote]]:
    """Draw all JPEGs; the notes of each split by its key, in the order of their index."""
    coco, sa1b = folder / "coco" / "train2014", folder / "sa1b"
    for images in (coco, sa1b):
        images.mkdir(parents=True)
    counts = {split.key: _count(split, manifest["train"], manifest["val"]) for split in SPLITS}
    jobs = [
        Job(sa1b if split.dataset == "sa1b" else coco, manifest["seed"], split, index, manifest["size"])
        for split in SPLITS
        for index in range(counts[split.key])
    ]
    drawn = []
    logger.info("drawing %d scenes of %d px", len(jobs), manifest["size"])
    for note in draw_all(jobs, workers):
        drawn.append(note)
        if len(drawn) % 2000 == 0:
            logger.info("%d of %d scenes drawn", len(drawn), len(jobs))
    notes = iter(drawn)
    return {key: [next(notes) for _ in range(count)] for key, count in counts.items()}


def _write_annotations(folder: Path, notes: dict[str, list[SceneNote]]) -> None:
    for dataset in ("refcoco", "refcoco+"):
        splits = {split.name: notes[split.key] for split in SPLITS if split.dataset == dataset}
        write_refcoco(folder / dataset, splits, place_words=dataset == "refcoco")
    write_osprey(folder / "osprey", notes["refcoco/train"])
    write_osprey(folder / "osprey", notes["refcoco/val"], suffix="_val")
    write_sa1b(folder / "sa1b", notes["sa1b/train"])


def _present(root: Path) -> dict | None:
    """The manifest under `root`; None when there is none that we wrote."""
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


@contextmanager
def _replacing(root: Path, manifest: dict) -> Iterator[Path]:
    """A new folder beside `root` that takes its place when the block ends well and vanishes when it fails."""
    if root.exists() and _present(root) is None and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} exists and was not written by make_scenes: nothing is overwritten; choose another root"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    folder, old = (root.parent / f".{root.name}.{what}-{os.getpid()}" for what in ("new", "old"))
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process that had our number
    folder.mkdir()
    try:
        yield folder
        try:
            if root.exists():
                root.rename(old)
            folder.rename(root)
        except OSError:
            if _present(root) != manifest:  # else another process has just put the same in place
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
