"""What the folder of a run holds for the page."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskcap.errors import ConfigError, DataError
from maskcap.metrics.prediction import Prediction
from maskcap.reports.curves import Series, read_metrics

_MARKS = ("config.yaml", "metrics.json", "metrics.csv")  # a folder with any of them is a run's
_DEPTH = 3  # folders below the given one in which runs are looked for: of an experiment, a multirun, a job
_PLACES = ("paths", "hydra")  # what differs between any two runs
_STEP = re.compile(r"(.+)_(\d+)$")


@dataclass(frozen=True)
class RunFolder:
    """What was found in one; empty where a file is missing, which `missing` says in words.

    name: of the folder, as short as tells it from the others. settings: dotted keys. metrics: metrics.json. series:
    metrics.csv. facts: run.json. command: that started it. pictures: the last of each kind in `samples/`, by kind.
    """

    path: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    pictures: dict[str, Path] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    missing: tuple[str, ...] = ()


def find_runs(given: Sequence[str]) -> list[Path]:
    """The run folders that the words name: folders, patterns with `*`, folders of runs (a multirun's, say), each once.

    Raises ConfigError, naming the word, where there is none.
    """
    found: dict[Path, None] = {}
    for word in given:
        places = _glob(word) if any(sign in word for sign in "*?[") else [Path(word)]
        runs = [run for place in places for run in _runs_in(place)]
        if not runs:
            what = "matches nothing" if not places else "is no folder" if not places[0].is_dir() else "holds no run"
            raise ConfigError(f"{word} {what}: give the folder of a run, or of several (with {' or '.join(_MARKS)})")
        found.update({run.resolve(): None for run in runs})
    return list(found)


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    base = Path(path.anchor) if path.is_absolute() else Path()
    parts = path.relative_to(path.anchor) if path.is_absolute() else path
    return sorted((place for place in base.glob(str(parts)) if place.is_dir()), key=_natural)


def _runs_in(place: Path, depth: int = _DEPTH) -> list[Path]:
    if any((place / mark).is_file() for mark in _MARKS):
        return [place]
    if depth == 0 or not place.is_dir():
        return []
    inner = sorted((each for each in place.iterdir() if each.is_dir()), key=_natural)
    return [run for each in inner for run in _runs_in(each, depth - 1)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers in a name count as numbers: job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that all of them share."""
    if len(paths) == 1:
        return [paths[0].name]
    parts = [path.parts for path in paths]
    shared = 0
    while len({each[: shared + 1] for each in parts}) == 1:
        shared += 1
    return ["/".join(each[shared:]) or each[-1] for each in parts]


def read_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """What is in these folders. A file that cannot be read is named in the run's `missing`."""
    return [_read(path, name) for path, name in zip(paths, short_names(paths), strict=True)]


def _read(path: Path, name: str) -> RunFolder:
    missing: list[str] = []
    settings, command = _settings(path, missing)
    return RunFolder(
        path,
        name,
        settings,
        _json(path / "metrics.json", missing),
        _series(path, missing),
        _json(path / "run.json", []),  # runs before it was written have none
        command,
        _pictures(path / "samples"),
        _predictions(path / "predictions.jsonl", missing),
        tuple(missing),
    )


def _settings(path: Path, missing: list[str]) -> tuple[dict[str, Any], str]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from maskcap.cli.runs import leaves

    file = path / "config.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException, ValueError) as error:
        missing.append(f"config.yaml ({_why(error)})")
        return {}, ""
    first = text.partition("\n")[0]
    found = {key: value for key, value in leaves(config).items() if key.partition(".")[0] not in _PLACES}
    return found, first.removeprefix("# ") if first.startswith("# ") else ""


def _json(file: Path, missing: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        missing.append(f"{file.name} (no mapping)")
    except (OSError, ValueError) as error:
        missing.append(f"{file.name} ({_why(error)})")
    return {}


def _series(path: Path, missing: list[str]) -> dict[str, Series]:
    if not (path / "metrics.csv").is_file() and (path / "predictions.jsonl").is_file():
        return {}  # an evaluation, which has no curves
    try:
        return read_metrics(path / "metrics.csv")
    except (DataError, OSError, csv.Error, UnicodeDecodeError) as error:
        missing.append("metrics.csv (no such file)" if isinstance(error, DataError) and "no such file" in str(error)
                       else f"metrics.csv ({_why(error)})")  # fmt: skip
        return {}


def _pictures(folder: Path) -> dict[str, Path]:
    """The last step's picture of each kind: `step_001100.png` and `pseudo_001100.png` are two kinds."""
    last: dict[str, tuple[int, Path]] = {}
    for file in folder.glob("*.png") if folder.is_dir() else ():
        if match := _STEP.fullmatch(file.stem):
            last[match[1]] = max(last.get(match[1], (-1, file)), (int(match[2]), file))
    return {kind: last[kind][1] for kind in sorted(last, key=lambda kind: (kind != "step", kind))}


def _predictions(file: Path, missing: list[str]) -> tuple[Prediction, ...]:
    if not file.is_file():
        return ()
    try:
        return tuple(Prediction.from_json(line) for line in file.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, TypeError) as error:
        missing.append(f"{file.name} ({_why(error)})")
        return ()


def _why(error: Exception) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
