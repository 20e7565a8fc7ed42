"""What stands beside the tars: `shard-000000.json` for each, `index.json` for all; read, checked, written.

Both are JSON objects of columns (lists of equal length) rather than of entries: a set of 11 million images is read in
seconds. Both end with the sha256 of what stands before it, so that a damaged one is never believed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from maskcap.data.bad_samples import BadSample
from maskcap.data.shards.columns import Groups, Records
from maskcap.data.shards.texts import Texts, repeats
from maskcap.errors import ShardError

SHARD_FORMAT, SET_FORMAT = "maskcap shard 1", "maskcap shards 1"
INDEX, PLAN, BAD_SAMPLES = "index.json", "plan.json", "bad_samples.jsonl"


def shard_name(number: int) -> str:
    """File name of a tar."""
    return f"shard-{number:06d}.tar"


def sidecar_name(shard: str) -> str:
    """File name of a tar's index."""
    return f"{shard.removesuffix('.tar')}.json"


@dataclass(frozen=True)
class Sidecar:
    """One tar: size in bytes, sha256 (hex), the plan that it is part of, its groups and records, those left out.

    content: sha256 (hex) of the records that were written, as the source gave them (see content.py).
    """

    shard: str
    plan: str
    size: int
    sha256: str
    content: str
    groups: Groups
    records: Records
    bad: Sequence[BadSample] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Groups, records, regions, and records left out."""
        numbers = len(self.groups.number), len(self.records.key), sum(self.records.regions), len(self.bad)
        return dict(zip(("groups", "records", "regions", "bad"), numbers, strict=True))

    def to_json(self) -> bytes:
        """The file's bytes."""
        content = {"format": SHARD_FORMAT, "counts": self.counts, **asdict(self)}
        return _sealed(content | {"records": self.records.columns()})

    @staticmethod
    def from_json(data: bytes, where: str) -> Sidecar:
        """Read and check. Raises ShardError."""
        read = _opened(data, SHARD_FORMAT, where)
        try:
            groups, records = Groups(**read["groups"]), Records.of(read["records"])
            bad = tuple(BadSample(**entry) for entry in read["bad"])
            facts = {name: read[name] for name in ("shard", "plan", "size", "sha256", "content")}
            return Sidecar(**facts, groups=groups, records=records, bad=bad)
        except (KeyError, TypeError) as error:
            raise ShardError(f"{where}: a field is missing or unknown ({error}). {AGAIN}.") from error


@dataclass(frozen=True)
class Shards:
    """The set's tars in order, with what their sidecars say; `sidecar` is the sha256 (hex) of the sidecar's bytes."""

    name: Sequence[str]
    size: Sequence[int]
    sha256: Sequence[str]
    groups: Sequence[int]
    records: Sequence[int]
    regions: Sequence[int]
    sidecar: Sequence[str]


@dataclass(frozen=True)
class SetIndex:
    """All tars of a set. `source` is the name of the records' source, `plan` and `options` what they were made by.

    skipped: what that source left out by its own rules; bad: records left out of the tars, by reason.
    """

    source: str
    plan: str
    options: Mapping[str, Any]
    has_captions: bool
    has_phrases: bool
    skipped: Mapping[str, int]
    bad: Mapping[str, int]
    shards: Shards
    has_turns: bool = False

    def to_json(self) -> bytes:
        """The file's bytes."""
        shards = self.shards
        sums = {name: sum(getattr(shards, name)) for name in ("groups", "records", "regions")}
        counts = {"shards": len(shards.name), **sums, "bad": sum(self.bad.values())}
        content = {"format": SET_FORMAT, "counts": counts, **asdict(self)}
        if not self.has_turns:  # written as before there were any
            del content["has_turns"]
        return _sealed(content)

    @staticmethod
    def from_json(data: bytes, where: str) -> SetIndex:
        """Read and check. Raises ShardError."""
        read = _opened(data, SET_FORMAT, where)
        try:
            read.pop("counts")
            return SetIndex(**{**read, "shards": Shards(**read["shards"])})
        except (KeyError, TypeError) as error:
            raise ShardError(f"{where}: a field is missing or unknown ({error}). {AGAIN}.") from error


AGAIN = "Run the same `maskcap shard` again, or fetch the file again"


def make_set_index(
    source: str, plan: str, options: Mapping[str, Any], skipped: Mapping[str, int], sidecars: Iterable[Sidecar]
) -> SetIndex:
    """The set's index from all its sidecars, in order. Raises ShardError when two records have one key."""
    columns: dict[str, list[Any]] = {field.name: [] for field in fields(Shards)}
    bad: Counter[str] = Counter()
    has_captions = has_phrases = has_turns = False
    keys: list[Texts] = []
    for sidecar in sidecars:
        facts = {"name": sidecar.shard, "size": sidecar.size, "sha256": sidecar.sha256, **sidecar.counts}
        facts["sidecar"] = hashlib.sha256(sidecar.to_json()).hexdigest()
        for name, column in columns.items():
            column.append(facts[name])
        bad.update(sample.reason for sample in sidecar.bad)
        has_captions |= any(sidecar.records.captions)
        has_turns |= any(sidecar.records.turns)
        has_phrases |= any(sidecar.records.phrases)
        keys.append(Texts(sidecar.records.key))
    _require_unique(Texts.joined(keys))
    return SetIndex(
        source=source,
        plan=plan,
        options=dict(options),
        has_captions=has_captions,
        has_phrases=has_phrases,
        skipped=dict(skipped),
        bad=dict(sorted(bad.items())),
        shards=Shards(**columns),
        has_turns=has_turns,
    )


def _require_unique(keys: Texts) -> None:
    twice = repeats(len(keys), keys.__getitem__)
    if twice:
        named = keys[next(iter(twice))]
        raise ShardError(f"{len(twice)} records have the key of another, the first {named!r}.", "duplicate key")


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    checksum = hashlib.sha256(text).hexdigest().encode("ascii")
    return b'%b,"checksum":"%b"}\n' % (text[:-1], checksum)


def _opened(data: bytes, format_name: str, where: str) -> dict[str, Any]:
    text, _, checksum = data.rpartition(b',"checksum":"')
    sealed = hashlib.sha256(text + b"}").hexdigest().encode("ascii") + b'"}\n' == checksum
    try:
        content = json.loads(data)
        named = content.pop("format")
        content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{where}: not an index of maskcap's ({error}). {AGAIN}.") from error
    if named != format_name:
        raise ShardError(f"{where}: its format is {named!r}, this maskcap reads {format_name!r}. Shard the data again.")
    if not sealed:
        raise ShardError(f"{where}: its content does not have the checksum it ends with. {AGAIN}.", "checksum mismatch")
    return content
