"""One tar and its sidecar: written all or nothing, the same bytes whoever writes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from maskcap.data.bad_samples import BadSample
from maskcap.data.images import read_image
from maskcap.data.record import ImageRef, Member, Record
from maskcap.data.record_rules import frames_to_check
from maskcap.data.shards.atomic import put, temporary_path, write_file, write_hint
from maskcap.data.shards.check import check_annotation
from maskcap.data.shards.columns import Groups, Records
from maskcap.data.shards.content import ContentHash, content_of
from maskcap.data.shards.encode import StoredFile, encode_group
from maskcap.data.shards.files import store_file
from maskcap.data.shards.index import Sidecar, shard_name, sidecar_name
from maskcap.data.shards.plan import Plan, record_key
from maskcap.data.shards.storage import digest, join, read_file
from maskcap.data.shards.tar import END, make_header, padding
from maskcap.data.source_facts import text_size
from maskcap.errors import ConfigError, DataError, MaskcapError, ShardError

OnBadSample = Literal["raise", "skip"]


@dataclass(frozen=True)
class Written:
    """What became of one shard. `redone`: why the file that was there did not do; `kept`: it was there and did.

    error: what stopped it; a worker hands it over, since torch would wrap an exception in the worker's traceback.
    """

    shard: str
    counts: dict[str, int] = field(default_factory=dict)
    size: int = 0
    kept: bool = False
    redone: str | None = None
    error: MaskcapError | None = None


@dataclass(frozen=True)
class ShardWriter:
    """Writes any shard of a plan; what workers share.

    parent: process id of the run, which started the workers: a worker whose parent was killed stops at the next image,
        and temporary files bear it.
    """

    source: Sequence[Record]
    plan: Plan
    out: str
    on_bad_sample: OnBadSample
    parent: int = field(default_factory=os.getpid)

    def write(self, number: int) -> Written:
        """Write shard `number`, or keep the one that is there.

        It is kept if its sha256 is that of its sidecar, no record was left out of it (it may be repaired by now), and
        the source gives the same records as then, by keys, annotations and the sizes of files (see `ContentHash`).
        """
        name = shard_name(number)
        problem = None
        try:
            sidecar, problem = self._finished(number)
            if sidecar is None:
                sidecar = self._write(number)
        except MaskcapError as error:
            return Written(name, redone=problem or None, error=error)
        return Written(name, sidecar.counts, sidecar.size, kept=problem == "", redone=problem or None)

    def _finished(self, number: int) -> tuple[Sidecar | None, str | None]:
        """The sidecar of a shard that can be kept, with ""; else None and what is wrong (None: not begun)."""
        name = shard_name(number)
        tar, place = join(self.out, name), join(self.out, sidecar_name(name))
        try:
            sidecar = Sidecar.from_json(read_file(place), place)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, f"{place} cannot be read: {error.strerror or error}"
        except ShardError as error:
            return None, str(error)
        if sidecar.plan != self.plan.fingerprint:
            raise ConfigError(f"{place} is of another plan: other data or options. Choose another folder for out")
        if sidecar.bad:
            return None, f"{len(sidecar.bad)} of its records were bad and may be repaired by now"
        try:
            whole = digest(tar) == sidecar.sha256
        except FileNotFoundError:
            return None, f"{tar} is missing"
        except OSError as error:
            return None, f"{tar} cannot be read: {error.strerror or error}"
        if not whole:
            return None, f"{tar} does not have the sha256 in its sidecar"
        try:
            changed = content_of(self.source, self.plan, self.plan.groups(number)) != sidecar.content
        except DataError as error:
            return None, f"its records have changed: {error}"
        return (None, "its records have changed") if changed else (sidecar, "")

    def _write(self, number: int) -> Sidecar:
        name = shard_name(number)
        place = join(self.out, name)
        temporary = temporary_path(place, self.parent)
        try:
            with open(temporary, "xb") as file:
                draft = _Draft(file)
                for group in self.plan.groups(number):
                    if self.parent not in (os.getpid(), os.getppid()):
                        raise SystemExit(1)  # orphaned: whoever runs the command again writes this shard anew
                    self._add_group(group, draft)
                sidecar = draft.finish(name, self.plan.fingerprint)
            put(temporary, place)
            write_file(join(self.out, sidecar_name(name)), sidecar.to_json(), self.parent)
        except OSError as error:
            raise ShardError(f"{place}: cannot be written ({error.strerror or error}).{write_hint(error)}") from error
        finally:
            Path(temporary).unlink(missing_ok=True)
        return sidecar

    def _add_group(self, group: int, draft: _Draft) -> None:
        records: list[Record] = []
        files: dict[Path | Member, StoredFile] = {}
        passed: set[ImageRef] = set()
        for index in self.plan.records(group):
            key = record_key(self.source, index)
            try:
                record = self._record(index, key)
                files |= self._files(record, files, passed)
            except DataError as error:
                if self.on_bad_sample == "raise":
                    raise
                draft.bad.append(BadSample.of(key, error))
            else:
                records.append(record)
        if records:
            draft.add(group, records, files)

    def _record(self, index: int, key: str) -> Record:
        """The record, its annotation checked. Raises DataError."""
        if index in self.plan.twice:
            raise DataError(f"{key}: an earlier record has the same key. Remove one, or give it another.", _TWICE)
        record = self.source[index]
        if self.plan.options.check:
            check_annotation(record)
        return record

    def _files(
        self, record: Record, there: Mapping[Path | Member, StoredFile], passed: set[ImageRef]
    ) -> dict[Path | Member, StoredFile]:
        """The files that the record needs beside those that are `there`; `passed` are images known to decode."""
        new: dict[Path | Member, StoredFile] = {}
        refs = record.image_refs
        looked_at = {record.frames[number] for number in frames_to_check(record)} if record.frames else set(refs)
        for ref in refs:
            decoded = ref in passed
            if ref.path not in there and ref.path not in new:
                new[ref.path] = store_file(ref, record.key, self.plan.options)
                decoded |= new[ref.path].stored != ref.stored  # it had to be, for resizing
            if self.plan.options.check and ref in looked_at and not decoded:
                read_image(ref, key=record.key)
        passed.update(refs)
        return new


_TWICE = "duplicate key"


class _Draft:
    """A tar that is being written, and what its sidecar will say."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._groups: list[tuple[int, int, int, int, str]] = []
        self._records: list[tuple[str, int, int, int, int, int, int]] = []
        self._content = ContentHash()
        self.bad: list[BadSample] = []

    def add(self, group: int, records: Sequence[Record], files: Mapping[Path | Member, StoredFile]) -> None:
        """Append a group: its JSON, then its files."""
        self._content.add(records)
        base = f"{group:09d}"
        names = [f"{base}.{number}" if number else base for number in range(len(files))]
        named = {
            path: replace(file, name=f"{name}.{file.name}")
            for name, (path, file) in zip(names, files.items(), strict=True)
        }
        text = encode_group(records, named)
        offset = self._append(f"{base}.json", text)
        for file in named.values():
            self._append(file.name, file.data)
        for record in records:
            regions, characters = text_size(record)
            captions = any(region.captions for region in record.regions1)
            phrases = any(region.captions and region.referring for region in record.regions1)
            flags = int(phrases), int(captions), len(record.turns)
            self._records.append((record.key, len(self._groups), regions, characters, *flags))
        self._groups.append((group, offset, len(text), self._size, hashlib.sha256(text).hexdigest()))

    def finish(self, name: str, plan: str) -> Sidecar:
        """Write the end mark; the tar's sidecar."""
        self._write(END)
        self._file.flush()
        groups = Groups(*(list(column) for column in zip(*self._groups, strict=True))) if self._groups else _NO_GROUPS
        records = Records(*(list(column) for column in zip(*self._records, strict=True))) if self._records else _NONE
        tar, content = self._sha256.hexdigest(), self._content.hex()
        return Sidecar(name, plan, self._size, tar, content, groups, records, tuple(self.bad))

    def _append(self, name: str, data: bytes) -> int:
        """Write a member; the offset of its data."""
        self._write(make_header(name, len(data)))
        offset = self._size
        self._write(data)
        self._write(bytes(padding(len(data))))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)


_NO_GROUPS = Groups((), (), (), (), ())
_NONE = Records((), (), (), (), (), (), ())
