"""SA-1B: `sa_N.jpg` with `sa_N.json` beside it, about 100 masks an image, no captions (Kirillov et al. 2023)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import LAYOUT_HELP, field, integer, layout_folder, list_of, read_json, require, some
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
NO_REGION = "images left without a region"


class SA1BSource(Sequence[Record]):
    """One record an image. The folder may be nested; `root/sa1b` is taken if it exists.

    split: SA-1B is published without splits: all of it is "train", unless there are sub-folders `train`, `val`, `test`.
    min_area (pixels), min_predicted_iou and min_stability drop regions below them.

    Building lists the folder, and JSONs are read when a record is asked for. With a filter set, building reads every
    JSON once, so that `skipped` (regions by the first filter they fail, images left without a region) and the length
    are exact.

    Keys are `"sa1b/<split>/<N>"`, region ids the annotations'. Raises DataError: no images, an image without JSON or
    the reverse, a malformed JSON, an image without annotations.
    """

    name = "sa1b"

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        min_area: float = 0,
        min_predicted_iou: float = 0.0,
        min_stability: float = 0.0,
    ):
        self.split = split
        self._limits = {"area": min_area, "predicted_iou": min_predicted_iou, "stability_score": min_stability}
        folder = layout_folder(root, "sa1b", split, SPLITS, "SA-1B (sa_N.jpg and sa_N.json)")
        self._files = _list_pairs(folder)
        skipped: Counter[str] = Counter()
        if any(limit > 0 for limit in self._limits.values()):
            self._files = [path for path in self._files if self._has_regions(path, skipped)]
            if not self._files:
                raise DataError(
                    f"{folder}: the filters leave no region: {dict(skipped)}. Lower min_area and the others."
                )
        self.skipped = dict(skipped)
        logger.info("SA-1B %s: %d images; skipped: %s", split, len(self), self.skipped or "nothing")

    @property
    def has_captions(self) -> bool:
        return False

    @property
    def has_phrases(self) -> bool:
        return False

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart; reads nothing."""
        return self._files[index]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path = self._files[index]
        image, annotations = _read(path)
        kept = [annotation for annotation in annotations if self._fails(annotation, path) is None]
        regions = tuple(Region(mask=a["segmentation"], captions=(), id=str(a.get("id", i))) for i, a in enumerate(kept))
        height, width = (integer(field(image, side, path), side, path) for side in ("height", "width"))
        return Record(
            f"sa1b/{self.split}/{path.stem.removeprefix('sa_')}",
            ImageRef(path.with_suffix(".jpg"), height, width),
            regions,
        )

    def _has_regions(self, path: Path, skipped: Counter[str]) -> bool:
        reasons = [self._fails(annotation, path) for annotation in _read(path)[1]]
        skipped.update(f"regions below the least {reason}" for reason in reasons if reason)
        if None not in reasons:
            skipped[NO_REGION] += 1
        return None in reasons

    def _fails(self, annotation: dict[str, Any], path: Path) -> str | None:
        """The first filter that the region fails, or None."""
        for name, limit in self._limits.items():
            if limit > 0:
                value = annotation.get(name)
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise DataError(
                        f"{path}, annotation {annotation.get('id')}: no number {name!r} to filter by. Unset the filter."
                    )
                if not value >= limit:
                    return name
        return None


def _list_pairs(folder: Path) -> list[Path]:
    """Paths of the JSONs, by N. Every JSON has its image and the reverse."""
    jsons, images = [], []
    for parent, _, names in os.walk(folder, followlinks=True):
        stems = {
            kind: {n[: -len(kind)] for n in names if n.startswith("sa_") and n.endswith(kind)}
            for kind in (".json", ".jpg")
        }
        jsons += [Path(parent, stem) for stem in stems[".json"]]
        images += [Path(parent, stem) for stem in stems[".jpg"]]
    if not jsons and not images:
        raise DataError(
            f"{folder}: no sa_N.jpg and sa_N.json in it or its sub-folders. Set the right folder; {LAYOUT_HELP}."
        )
    lone = sorted(set(jsons) ^ set(images))
    require(
        not lone, folder, f"image or JSON missing beside {some(lone)}. Fetch the missing files, or remove their halves"
    )
    twice = [stem for stem, times in Counter(path.name for path in jsons).items() if times > 1]
    require(not twice, folder, f"in several sub-folders: {some(twice)}. Keep one of each")
    return sorted((path.with_name(path.name + ".json") for path in jsons), key=lambda path: (len(path.name), path.name))


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content = read_json(path)
    image = field(content, "image", path)
    annotations = list_of(dict, field(content, "annotations", path), "'annotations'", path)
    require(bool(annotations), path, "the image has no annotations. Remove the image and its JSON")
    for i, annotation in enumerate(annotations):
        field(annotation, "segmentation", f"{path}, annotation {annotation.get('id', i)}")
    return image, annotations
