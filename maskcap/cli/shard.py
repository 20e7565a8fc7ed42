"""`maskcap shard`: one source of a data set → tar shards with an index."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskcap.cli.data_alone import SETS, data_alone
from maskcap.cli.launch import launch
from maskcap.config import Node, Schema
from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.data.record import Record
    from maskcap.data.shards.write import Summary

log = logging.getLogger(__name__)

SHARD_SCHEMA: Schema = {
    "out": str,
    "set": str,
    "source": str | None,
    "limit": int | None,
    "resize": int | None,
    "quality": int,
    "groups_per_shard": int,
    "check": bool,
    "on_bad_sample": str,
    "workers": int,
    "job": int,
    "jobs": int,
    "seed": int,
    "trusted_targets": list[str],
    "paths": {"data": str, "runs": str, "run": str},
    "data": Node(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "shard", arguments)


def run(config: DictConfig) -> None:
    """Write the shards of a composed configuration; see `write_shards`.

    Raises ConfigError, DataError for a bad record, ShardError when a file cannot be written.
    """
    from maskcap.config import check_config
    from maskcap.data.shards.plan import ShardOptions
    from maskcap.data.shards.write import write_shards

    checked = check_config(data_alone(config), SHARD_SCHEMA)
    names = ("resize", "quality", "groups_per_shard", "check")
    options = ShardOptions(**{name: checked[name] for name in names})
    if checked["set"] not in SETS:
        raise ConfigError(f"set={checked['set']}: sets are {', '.join(SETS)}")
    started = time.perf_counter()
    data = checked.build("data")
    data.prepare_data()
    source = _source(data.sources(checked["set"]), checked["set"], checked["source"], checked["limit"])
    done = write_shards(
        source,
        checked["out"],
        options,
        workers=checked["workers"],
        job=checked["job"],
        jobs=checked["jobs"],
        on_bad_sample=checked["on_bad_sample"],
    )
    _report(done, checked["out"], time.perf_counter() - started)


def _source(sources: dict[str, Sequence[Record]], part: str, name: str | None, limit: int | None) -> Sequence[Record]:
    from maskcap.data.holdout import RecordSubset
    from maskcap.signatures import did_you_mean

    there = ", ".join(sources) or "none"
    if name is None and len(sources) != 1:
        raise ConfigError(f"source: the data has {len(sources)} sources in set={part} ({there}); choose one, source=…")
    name = next(iter(sources)) if name is None else name
    if name not in sources:
        hint = did_you_mean(name, list(sources)) or "."
        raise ConfigError(f"source={name}: no such source in set={part}{hint} There are: {there}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: needs at least 1")
    return sources[name] if limit is None else RecordSubset(sources[name], range(limit))


def _report(done: Summary, out: str, seconds: float) -> None:
    counts = done.counts
    log.info(
        "%s: %d shards written, %d kept: %d images or videos, %d records, %d regions, %.2f GiB in %.0f s; %d left out",
        out,
        done.written,
        done.kept,
        counts.get("groups", 0),
        counts.get("records", 0),
        counts.get("regions", 0),
        done.size / 2**30,
        seconds,
        counts.get("bad", 0),
    )
    if done.finished:
        log.info("the set is complete: data.shards=%s trains on it", out)
