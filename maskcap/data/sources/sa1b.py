"""SA-1B: `sa_N.jpg` with `sa_N.json` beside it, about 100 masks an image, no captions (Kirillov et al. 2023)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from maskcap.data.record import ImageRef, Record
from maskcap.data.sources.files import LAYOUT_HELP, layout_folder, read_json
from maskcap.data.sources.lenient import LenientSource
from maskcap.data.sources.sa1b_annotation import SA1BFilters, make_regions, read_annotation
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
NO_REGION = "images left without a region"


class SA1BSource(LenientSource):
    """One record an image. The folder may be nested; `root/sa1b` is taken if it exists.

    split: SA-1B is published without splits: all of it is "train", unless there are sub-folders `train`, `val`, `test`.
    min_area (pixels), min_predicted_iou and min_stability drop regions below them.

    Building lists the folder, and JSONs are read when a record is asked for. With a filter set, building reads every
    JSON once, so that `skipped` (regions by the first filter they fail, images left without a region) and the length
    are exact.

    Keys are `"sa1b/<split>/<N>"`, region ids the annotations'. An image without its JSON, a JSON without its image, a
    second copy in another sub-folder, a malformed JSON and an image without annotations are bad records (see
    `LenientSource`): asking for one raises DataError. Building raises it when there are no images at all, when the
    filters leave no region, and when every record is bad.
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
        self._filters = SA1BFilters(min_area, min_predicted_iou, min_stability)
        folder = layout_folder(root, "sa1b", split, SPLITS, "SA-1B (sa_N.jpg and sa_N.json)")
        files = _list_files(folder)
        skipped: Counter[str] = Counter()
        if self._filters.active:
            files = [file for file in (self._filtered(file, skipped) for file in files) if file is not None]
            if not files:
                raise DataError(
                    f"{folder}: the filters leave no region: {dict(skipped)}. Lower min_area and the others."
                )
        self._stems = [file.stem for file in files]
        self.bad = {i: file.error for i, file in enumerate(files) if file.error is not None}
        self.skipped = dict(skipped)
        self._settle(folder)
        logger.info("SA-1B %s: %d images; skipped: %s", split, len(self), self.skipped or "nothing")

    @property
    def has_captions(self) -> bool:
        """Never: the set has masks alone."""
        return False

    @property
    def has_phrases(self) -> bool:
        """Never: the set has masks alone."""
        return False

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart; reads nothing."""
        return self._stems[index]

    def key_of(self, index: int) -> str:
        """The record's key; a bad record has one too."""
        return f"sa1b/{self.split}/{self._stems[index].name.removeprefix('sa_')}"

    def text_size_of(self, index: int) -> tuple[int, int] | None:
        """Unknown: how many regions there are stands in the JSON."""
        return None

    def annotation_of(self, index: int) -> str:
        """The record's JSON, for messages."""
        return f"{self._stems[index]}.json"

    def __len__(self) -> int:
        return len(self._stems)

    def _read(self, index: int) -> Record:
        stem = self._stems[index]
        path = Path(f"{stem}.json")
        annotation = read_annotation(read_json(path), path)
        image = ImageRef(Path(f"{stem}.jpg"), annotation.height, annotation.width)
        return Record(self.key_of(index), image, make_regions(annotation.annotations, self._filters, path))

    def _filtered(self, file: _File, skipped: Counter[str]) -> _File | None:
        """The file, with its error if reading the JSON finds one; None if the filters leave nothing of it."""
        if file.error is not None:
            return file
        path = Path(f"{file.stem}.json")
        counts: Counter[str] = Counter()
        try:
            regions = make_regions(read_annotation(read_json(path), path).annotations, self._filters, path, counts)
        except DataError as error:
            return _File(file.stem, error)
        skipped.update(counts)
        if not regions:
            skipped[NO_REGION] += 1
        return file if regions else None


@dataclass(frozen=True)
class _File:
    """The path without its ending, and what is wrong with it."""

    stem: Path
    error: DataError | None = None


def _list_files(folder: Path) -> list[_File]:
    """Every image or JSON below the folder, by N and path; those without the other half are bad, as are second copies.

    Raises DataError when there are none.
    """
    halves: dict[Path, set[str]] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.startswith("sa_") and name.endswith((".json", ".jpg")):
                stem, ending = os.path.splitext(name)
                halves.setdefault(Path(parent, stem), set()).add(ending)
    if not halves:
        raise DataError(
            f"{folder}: no sa_N.jpg and sa_N.json in it or its sub-folders. Set the right folder; {LAYOUT_HELP}.",
            "missing file",
        )
    first: dict[str, Path] = {}
    files = []
    for stem in sorted(halves, key=lambda stem: (len(stem.name), stem.name, stem)):
        error = None
        if len(halves[stem]) == 1:
            (there,) = halves[stem]
            lost = ".json" if there == ".jpg" else ".jpg"
            error = DataError(
                f"{stem}{lost}: image or JSON missing beside {stem}{there}. Fetch it, or remove its other half.",
                "missing file",
            )
        elif first.setdefault(stem.name, stem) != stem:
            error = DataError(
                f"{stem}.json: {stem.name} is in several sub-folders; {first[stem.name]}.json is the one in use. "
                "Keep one of them.",
                "duplicate key",
            )
        files.append(_File(stem, error))
    return files
