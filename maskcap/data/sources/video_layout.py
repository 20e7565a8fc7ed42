"""Where the files of referring video sets are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from maskcap.data.sources.files import LAYOUT_HELP, first_existing, require, some
from maskcap.errors import ConfigError, DataError

_FOLDERS = {
    "revos": ("revos", "ReVOS"),
    "mevis": ("mevis", "MeViS"),
    "ref_youtube_vos": ("ref_youtube_vos", "ref-youtube-vos", "Ref-Youtube-VOS", "rvos"),
}


@dataclass(frozen=True)
class VideoLayout:
    """The two annotation files, and the folders of which one has a sub-folder of frames for each video."""

    expressions: Path
    masks: Path
    images: Sequence[Path]

    def folder_of(self, video: str, where: str) -> Path:
        """The video's folder of frames; where none exists, the first place that it was looked for.

        where: the video, for messages. Raises DataError for a name that leads elsewhere, or that no folder can have.
        """
        name = PurePath(video)
        inside = not name.is_absolute() and ".." not in name.parts
        require(inside, where, "its name must be that of a folder among the others: no absolute path and no '..'")
        places = [folder / name for folder in self.images]
        try:
            return next((place for place in places if place.is_dir()), places[0])
        except OSError as error:
            raise DataError(f"{where}: no folder can have its name ({error.strerror}). Correct it.") from error


def check_frames(frames: Sequence[str], folder: Path, where: str) -> None:
    """Raise DataError, naming `where`, unless the folder has all of these frames, by their names without `.jpg`."""
    try:
        there = set(os.listdir(folder)) if folder.is_dir() else set()
    except OSError as error:
        raise DataError(f"{where}: {folder} cannot be read ({error.strerror}). Correct its permissions.") from error
    missing = [f"{name}.jpg" for name in frames if f"{name}.jpg" not in there]
    problem = f"{len(missing)} of {len(frames)} frames are missing in {folder}: {some(missing)}. Fetch them"
    require(not missing, where, problem, "missing file")


def find_layout(
    root: str | Path,
    dataset: str,
    split: str,
    expressions: str | Path | None = None,
    masks: str | Path | None = None,
    images: str | Path | None = None,
) -> VideoLayout:
    """The files of a split, in `root/<dataset>` if it exists (`ReVOS`, `rvos` … are tried, too), else in `root`.

    Expressions are `<split>/meta_expressions.json` (MeVIS), `meta_expressions_<split>_.json` (ReVOS),
    `meta_expressions/<split>/meta_expressions.json` (Ref-YouTube-VOS), or `meta_expressions.json` for train; masks are
    `mask_dict.json` or `mask_dict.pkl` under `<split>/` or beside these, and frames `JPEGImages/<video>/<frame>.jpg`,
    under `<split>/` or not. Masks that lie in the data set's own folder are those of train, of ReVOS those of all
    splits. What is given is taken as it is.

    Raises ConfigError for another data set, DataError for what is not found, with the places.
    """
    if dataset not in _FOLDERS:
        raise ConfigError(f"ReferringVideoSource: dataset must be one of {', '.join(_FOLDERS)}, got {dataset!r}.")
    base = next((Path(root) / name for name in _FOLDERS[dataset] if (Path(root) / name).is_dir()), Path(root))
    part = base / split
    meta = "meta_expressions"
    metas = [part / f"{meta}.json", base / f"{meta}_{split}_.json", base / meta / split / f"{meta}.json"]
    metas += [base / f"{meta}.json"] if split == "train" else []
    of = f"of {dataset} {split}"
    found = first_existing([Path(expressions)] if expressions else metas, f"the expressions {of}")
    suffixes = (".pkl", ".json") if dataset == "ref_youtube_vos" else (".json", ".pkl")
    places = [part] if found.parent == base and expressions is None else [part, found.parent]
    if split == "train" or dataset == "revos":
        places.append(base)
    dicts = [folder / f"mask_dict{suffix}" for folder in places for suffix in suffixes]
    mask_file = first_existing([Path(masks)] if masks else dicts, f"the masks {of}")
    folders = [Path(images)] if images else [part / "JPEGImages", base / "JPEGImages", part, base]
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        raise DataError(f"{folders[0]}: no such folder of frames {of}. Set images; {LAYOUT_HELP}.", "missing file")
    return VideoLayout(found, mask_file, there)
