"""Which records go into which tar: fixed by the records' keys and the options before anything is written."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from maskcap.data.record import Record
from maskcap.data.shards.atomic import write_file
from maskcap.data.shards.index import PLAN
from maskcap.data.shards.storage import join, read_file
from maskcap.data.shards.texts import repeats
from maskcap.data.source_facts import image_of, key_of, skipped_of, source_name
from maskcap.errors import ConfigError, DataError

_FORMAT = "maskcap shard plan 1"


@dataclass(frozen=True)
class ShardOptions:
    """What the tars hold.

    resize: stills of more than `resize`² pixels are stored as `resize` × `resize`, antialiased bilinear, as a JPEG of
        `quality` (1 … 100); others, and videos, byte for byte. None: all of them byte for byte. Masks stay as they are.
    groups_per_shard: images or videos in one tar.
    check: decode every image and parse every mask while writing.
    """

    resize: int | None = None
    quality: int = 95
    groups_per_shard: int = 1000
    check: bool = True

    def __post_init__(self) -> None:
        if self.groups_per_shard < 1 or (self.resize is not None and self.resize < 1):
            raise ConfigError(f"groups_per_shard={self.groups_per_shard}, resize={self.resize}: needs at least 1")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality={self.quality}: needs 1 to 100")


@dataclass(frozen=True)
class Plan:
    """N records of a source in G groups (one image or video each), `options.groups_per_shard` groups a tar.

    order:  int64 (N,), indices of the source's records, group by group. Groups stand in the order of their first.
    ends:   int64 (G,), where each group ends in `order`.
    twice:  index of a record → that of an earlier one with the same key.
    fingerprint: sha256 (hex) of all keys in order and the options, on any machine the same. What the records hold is
        not in it: that it changed shows shard by shard (content.py).
    """

    name: str
    options: ShardOptions
    order: np.ndarray
    ends: np.ndarray
    fingerprint: str
    twice: Mapping[int, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_shards(self) -> int:
        """How many tars."""
        return -(-len(self.ends) // self.options.groups_per_shard)

    def groups(self, shard: int) -> range:
        """Numbers of the groups of a tar."""
        size = self.options.groups_per_shard
        return range(shard * size, min((shard + 1) * size, len(self.ends)))

    def records(self, group: int) -> list[int]:
        """Indices of a group's records in the source."""
        return self.order[self.ends[group - 1] if group else 0 : self.ends[group]].tolist()

    def facts(self) -> dict[str, object]:
        """The content of plan.json."""
        counts = {"shards": self.n_shards, "groups": len(self.ends), "records": len(self.order)}
        return {"format": _FORMAT, "plan": self.fingerprint, "source": self.name, **counts, **asdict(self.options)}


def record_key(source: Sequence[Record], index: int) -> str:
    """The record's key: by the source's own `key_of`, or by reading it; `"<name>#<index>"` for one that is bad."""
    if not hasattr(source, "key_of"):
        try:
            return source[index].key
        except DataError:
            pass  # it is counted when it is written
    return key_of(source, index)


def make_plan(source: Sequence[Record], options: ShardOptions) -> Plan:
    """Group the records by image, as `image_of` tells them apart, and number everything. Reads keys, no pixels."""
    numbers: dict[Hashable, int] = {}
    group = np.fromiter(
        (numbers.setdefault(image_of(source, i), len(numbers)) for i in range(len(source))), np.int64, len(source)
    )
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=len(numbers)))
    digest = hashlib.sha256(json.dumps([_FORMAT, source_name(source), asdict(options)]).encode("ascii"))
    hashes = array("q")  # kept instead of the keys, which may be millions
    for index, last in zip(order.tolist(), np.isin(np.arange(1, len(order) + 1), ends).tolist(), strict=True):
        key = record_key(source, index)
        hashes.append(hash(key))
        digest.update(key.encode("utf-8", "surrogatepass") + (b"\1" if last else b"\0"))
    by_index = np.empty(len(order), np.int64)
    by_index[order] = hashes
    return Plan(
        name=source_name(source),
        options=options,
        order=order,
        ends=ends,
        fingerprint=digest.hexdigest(),
        twice=repeats(len(source), lambda i: record_key(source, i), by_index),
        skipped=dict(skipped_of(source)),
    )


def claim_folder(plan: Plan, out: str, *, started: bool) -> None:
    """Write plan.json, or compare with the one that is there. `started`: whether the folder holds shards.

    Raises ConfigError when the folder is another plan's; a plan without any shard is replaced. Raises OSError.
    """
    place = join(out, PLAN)
    data = (json.dumps(plan.facts(), indent=1) + "\n").encode("ascii")
    try:
        there = read_file(place)
    except FileNotFoundError:
        there = None
    if there is not None and there != data and started:
        raise ConfigError(
            f"out={out} holds the shards of another plan{_difference(there, plan)}. Choose another folder"
        )
    write_file(place, data)


def _difference(there: bytes, plan: Plan) -> str:
    try:
        then: Mapping[str, object] = json.loads(there)
        now = plan.facts()
        changed = [f"{name}: {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
    except (ValueError, AttributeError):
        return ""
    named = [text for text in changed if not text.startswith("plan:")] or ["other records"]
    return f" ({'; '.join(named)})"
