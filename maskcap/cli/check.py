"""`maskcap check`: read every record of a data set, name every bad one, measure the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.data_alone import SETS, data_alone
from maskcap.cli.launch import launch
from maskcap.config import Node, Schema
from maskcap.errors import ConfigError, DataError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.data.bad_samples import BadSample
    from maskcap.data.checks.inspect import Grids
    from maskcap.data.checks.walk import SourceReport

log = logging.getLogger(__name__)

_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal

CHECK_SCHEMA: Schema = {
    "sets": list[str],
    "workers": int,
    "limit": int | None,
    "grid": int,
    "seed": int,
    "trusted_targets": list[str],
    "paths": {"data": str, "runs": str, "run": str},
    "data": Node(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]. Raises SystemExit with code 1 when any record is bad."""
    problems: list[int] = []
    launch(lambda config: problems.append(run(config)), "check", arguments)
    if any(problems):
        raise SystemExit(1)


def run(config: DictConfig) -> int:
    """Check the data of a composed configuration, write the folder `paths.run`; returns the number of problems.

    Raises ConfigError, and DataError for sources that cannot be opened.
    """
    from maskcap.config import check_config
    from maskcap.data.bad_samples import append_bad_samples
    from maskcap.data.checks.inspect import Grids
    from maskcap.reports.check_tables import print_report

    checked = check_config(data_alone(config), CHECK_SCHEMA)
    _check_options(checked.values)
    folder = Path(checked["paths"]["run"])
    data = checked.build("data")
    data.prepare_data()
    sources = _sources(data, checked["sets"], checked["limit"])
    grids = Grids(checked["data"].get("image_size", 1024), checked["grid"])
    listed = folder / "bad_samples.jsonl"
    listed.unlink(missing_ok=True)  # of an earlier check in the same folder
    reports: dict[str, SourceReport] = {}
    for problems in _walk(sources, grids, checked["workers"], reports):
        append_bad_samples(listed, problems)
    facts = {"image_size": grids.image_size, "grid": grids.grid, "limit": checked["limit"]}
    _write(folder, reports, facts)
    print_report(reports, folder)
    return sum(report.statistics.counts["problems"] for report in reports.values())


def _check_options(values: Mapping[str, Any]) -> None:
    for name, least in (("workers", 0), ("limit", 1), ("grid", 1)):
        if values[name] is not None and values[name] < least:
            raise ConfigError(f"{name}={values[name]}: needs at least {least}")
    for name in values["sets"]:
        if name not in SETS:
            raise ConfigError(f"sets: there is no set {name!r}; sets are {', '.join(SETS)}")


def _sources(data: Any, sets: Sequence[str], limit: int | None) -> dict[str, Any]:
    """ "set/name" → source, of every set. Raises ConfigError when there are none."""
    from maskcap.data.holdout import RecordSubset

    built = {f"{part}/{name}": source for part in dict.fromkeys(sets) for name, source in data.sources(part).items()}
    if not built:
        raise ConfigError(f"sets={list(sets)}: the data has no source in them")
    return built if limit is None else {name: RecordSubset(source, range(limit)) for name, source in built.items()}


def _walk(
    sources: Mapping[str, Any], grids: Grids, workers: int, reports: dict[str, SourceReport]
) -> Iterator[list[BadSample]]:
    """Problems as they are found; fills `reports`, source after source."""
    from maskcap.data.checks.walk import SourceReport, walk
    from maskcap.data.progress import Progress

    names = list(sources)
    reports.update({name: SourceReport(source) for name, source in sources.items()})
    chunks = walk(list(sources.values()), grids, workers)  # workers start before the bar's thread does
    at = found = 0
    with Progress("records", sum(map(len, sources.values())), every=_LINE_EVERY) as progress, _clear_worker_errors():
        for chunk in chunks:
            while at < chunk.source:
                yield reports[names[at]].finish()
                at += 1
            reports[names[at]].add(chunk)
            found += len(chunk.problems)
            progress.advance(f"{found} problems", count=len(chunk.keys), part=names[at])
            yield chunk.problems
    for name in names[at:]:
        yield reports[name].finish()


@contextmanager
def _clear_worker_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a worker process died: {str(error).splitlines()[0]} workers=0 reads in this process and shows where; "
            "if memory is short, fewer workers help."
        ) from error


def _write(folder: Path, reports: Mapping[str, SourceReport], facts: Mapping[str, Any]) -> None:
    """check.json and histograms.png."""
    from maskcap.data.checks.statistics import merged
    from maskcap.data.source_facts import skipped_of, source_name
    from maskcap.reports.histograms import histograms_figure

    sets: dict[str, dict[str, Any]] = {}
    for name, report in reports.items():
        part, _, source = name.partition("/")
        about = {
            "source": source_name(report.source),
            "skipped": dict(skipped_of(report.source)),
            "files": report.files,
        }
        sets.setdefault(part, {})[source] = about | report.statistics.to_json()
    statistics = {name: report.statistics for name, report in reports.items()}
    content = {**facts, "sets": sets, "all": merged(statistics.values()).to_json()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "check.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    histograms_figure(statistics, grid=facts["grid"]).savefig(folder / "histograms.png")
