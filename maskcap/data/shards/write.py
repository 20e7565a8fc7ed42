"""`write_shards`: a source's records → tars with indices, in parallel, over jobs, and again after a kill."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from maskcap.data.progress import Progress
from maskcap.data.record import Record
from maskcap.data.shards.atomic import remove_stale, write_file, write_hint
from maskcap.data.shards.index import BAD_SAMPLES, INDEX, Sidecar, make_set_index, shard_name, sidecar_name
from maskcap.data.shards.plan import Plan, ShardOptions, claim_folder, make_plan
from maskcap.data.shards.storage import join, list_files, make_folder, place_of, read_file, remove
from maskcap.data.shards.workers import write_all
from maskcap.data.shards.writer import OnBadSample, ShardWriter
from maskcap.data.source_facts import known_bad
from maskcap.errors import ConfigError, DataError, ShardError

logger = logging.getLogger(__name__)
_SHOWN = 5  # shards that a message names


@dataclass(frozen=True)
class Summary:
    """What a run did: shards written and kept, their groups, records, regions and bytes, records left out by reason.

    finished: whether index.json is there: every shard of every job is.
    """

    written: int
    kept: int
    counts: dict[str, int]
    size: int
    finished: bool


def write_shards(
    source: Sequence[Record],
    out: str | Path,
    options: ShardOptions | None = None,
    *,
    workers: int = 2,
    job: int = 0,
    jobs: int = 1,
    on_bad_sample: OnBadSample = "raise",
) -> Summary:
    """Write a source's records as tar shards into `out`, a folder or fsspec URL; see `ShardOptions`.

    workers: processes; 0: this one. Job number `job` of `jobs` writes the shards s with s % jobs == job; whichever job
    finds every shard there writes `index.json` and, with "skip", `bad_samples.jsonl`.
    on_bad_sample: "raise" stops at the first record that does not pass; "skip" leaves it out and counts it.

    The files depend on records and options alone. Each appears whole or not at all; a later run, after a kill or at the
    same time, ends with the same files. It keeps the shards that are whole, left nothing out as bad and have the
    records that the source gives now, and says why it writes another again. An image that was replaced by another of
    the same number of bytes is not seen (`ContentHash`): remove the shard's sidecar, and it is written again.

    Raises ConfigError for impossible arguments and for a folder that holds another plan's shards or cannot be written,
    DataError for a bad record or a source without records, ShardError when a shard cannot be written.
    """
    options = options or ShardOptions()
    place = place_of(out)
    _check_arguments(source, workers, job, jobs, on_bad_sample)
    plan = make_plan(source, options)
    make_folder(place)
    with _writing(place):
        claim_folder(plan, place, started=any(name.endswith(".tar") for name in list_files(place)))
        stale = remove_stale(place)
    if stale:
        logger.info("%s: removed %d temporary files of a run that was killed", place, len(stale))
    _say_if_videos(plan, source)
    mine = range(job, plan.n_shards, jobs)
    logger.info("%s: %d records in %d shards, %d for this job", place, len(plan.order), plan.n_shards, len(mine))
    written, kept, size, counts = 0, 0, 0, Counter[str]()
    with Progress("shards", len(mine)) as progress:
        for result in write_all(ShardWriter(source, plan, place, on_bad_sample), mine, workers):
            if result.redone:
                logger.warning("%s is written again: %s", result.shard, result.redone)
            if result.error is not None:
                raise result.error
            written, kept = written + (not result.kept), kept + result.kept
            size += result.size
            counts.update(result.counts)
            progress.advance(f"{counts['records']} records, {size / 2**30:.2f} GiB")
    with _writing(place):
        finished = _finish(plan, place, jobs)
    return Summary(written, kept, dict(counts), size, finished)


def _check_arguments(source: Sequence[Record], workers: int, job: int, jobs: int, on_bad_sample: str) -> None:
    if workers < 0 or jobs < 1 or not 0 <= job < jobs:
        raise ConfigError(f"workers={workers}, job={job}, jobs={jobs}: needs workers ≥ 0 and 0 ≤ job < jobs")
    if on_bad_sample not in ("raise", "skip"):
        raise ConfigError(f'on_bad_sample={on_bad_sample!r}: choose "raise" or "skip"')
    if len(source) == 0:
        raise DataError("the source has no records: nothing to write", "no regions")
    bad = known_bad(source)
    if bad and on_bad_sample == "raise":
        index = next(iter(bad))
        raise DataError(
            f"{len(bad)} of {len(source)} records are bad; the first: {bad[index]} "
            "(on_bad_sample=skip leaves them out and counts them)",
            bad[index].reason,
        )


@contextmanager
def _writing(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = write_hint(error) if error.errno == errno.ENOSPC else " Choose another folder, or mend it."
        raise ConfigError(f"out={place}: cannot be written ({error.strerror or error}).{hint}") from error


def _say_if_videos(plan: Plan, source: Sequence[Record]) -> None:
    if plan.options.resize is None:
        return
    with suppress(DataError):  # of the first record: it is named when it is written
        refs = source[int(plan.order[0])].image_refs
        if refs and refs[0].frame is not None:
            logger.info("videos are stored as they are: resize=%d is for stills", plan.options.resize)


def _finish(plan: Plan, place: str, jobs: int) -> bool:
    """Write what stands for the whole set, once every tar and sidecar is there; whether it is."""
    missing = _missing(plan, place)
    if missing:
        named = [f"{what} (job {number % jobs} of {jobs} writes it)" for number, what in list(missing.items())[:_SHOWN]]
        more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        logger.info("%d of %d shards are still to come: %s%s", len(missing), plan.n_shards, "; ".join(named), more)
        return False
    options = asdict(plan.options)
    index = make_set_index(plan.name, plan.fingerprint, options, plan.skipped, _sidecars(plan, place))
    bad = "".join(f"{sample.to_json()}\n" for sidecar in _sidecars(plan, place) for sample in sidecar.bad)
    if bad:
        write_file(join(place, BAD_SAMPLES), bad.encode("utf-8", "surrogatepass"))
    else:
        remove(join(place, BAD_SAMPLES))
    write_file(join(place, INDEX), index.to_json())
    return True


def _missing(plan: Plan, place: str) -> dict[int, str]:
    """Number of a shard → what is not there of it: tar or sidecar, or the tar with the size in its sidecar."""
    there, missing = list_files(place), dict[int, str]()
    for number in range(plan.n_shards):
        names = shard_name(number), sidecar_name(shard_name(number))
        lost = [name for name in names if name not in there]
        if lost:
            missing[number] = f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} not there"
    if not missing:
        for number, sidecar in enumerate(_sidecars(plan, place)):
            name = shard_name(number)
            if there[name] != sidecar.size:
                missing[number] = f"{name} has {there[name]} bytes instead of {sidecar.size}"
    return missing


def _sidecars(plan: Plan, place: str) -> Iterator[Sidecar]:
    """Every shard's, in order. Raises ShardError, ConfigError for another plan's."""
    for number in range(plan.n_shards):
        where = join(place, sidecar_name(shard_name(number)))
        try:
            sidecar = Sidecar.from_json(read_file(where), where)
        except OSError as error:
            raise ShardError(f"{where}: cannot be read ({error.strerror or error}). Run the command again.") from error
        if sidecar.plan != plan.fingerprint:
            raise ConfigError(f"{where} is of another plan: other data or options. Choose another folder for out")
        yield sidecar
