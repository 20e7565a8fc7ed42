"""Tiny data sets, drawn once; shards of them; and what every test here asks: are these the same samples?"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcap.data.holdout import RecordSubset
from maskcap.data.record import Record
from maskcap.data.sample import Sample, make_sample
from maskcap.data.scenes import make_scenes
from maskcap.data.shards.plan import ShardOptions
from maskcap.data.shards.write import write_shards
from maskcap.data.sources import OspreySource, RefCOCOSource, SA1BSource, SAVSource
from maskcap.errors import DataError

MAKE: dict[str, Callable[[Path], Sequence[Record]]] = {
    "sa1b": SA1BSource,
    "sav": SAVSource,
    "pairs": functools.partial(SAVSource, pairs=True, distance=2),
    "refcoco": RefCOCOSource,
    "osprey": lambda root: OspreySource(root / "osprey" / "osprey_detail_description.json", root / "coco"),
    "questions": lambda root: OspreySource(root / "osprey" / "osprey_short_form.json", root / "coco"),
}


def cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes."""
    path.write_bytes(path.read_bytes()[:size])


def swap(a: Path, b: Path) -> None:
    """Exchange the contents of two files."""
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)


def flip(path: Path, place: int, bit: int = 4) -> None:
    """Change one bit of the byte at `place`."""
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 scenes of 64 px and 2 videos in the real layouts; 6 images of SA-1B."""
    return make_scenes(tmp_path_factory.mktemp("shards") / "scenes", train=120, val=2, size=64, workers=0)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scans of tars are kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskcap" / "tar-headers"


@pytest.fixture
def source(scenes: Path) -> Callable[..., RecordSubset]:
    """source(name, count): the first records of one of MAKE."""

    def make(name: str = "refcoco", count: int = 15) -> RecordSubset:
        return RecordSubset(MAKE[name](scenes), range(count))

    return make


@pytest.fixture
def shards(source, tmp_path: Path) -> Path:
    """15 images of RefCOCO in 3 shards."""
    write_shards(source(), tmp_path / "shards", ShardOptions(groups_per_shard=5), workers=0)
    return tmp_path / "shards"


@pytest.fixture
def raw_tars(scenes: Path, tmp_path: Path) -> Path:
    """SA-1B as it is published: two tars of 3 images."""
    folder = tmp_path / "raw"
    folder.mkdir()
    jsons = sorted((scenes / "sa1b").glob("sa_*.json"), key=lambda path: int(path.stem[3:]))
    for number in range(2):
        with tarfile.open(folder / f"sa_00000{number}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for path in jsons[3 * number : 3 * number + 3]:
                tar.add(path.with_suffix(".jpg"), f"./{path.stem}.jpg")
                tar.add(path, f"./{path.name}")
    return folder


@pytest.fixture
def sample_of() -> Callable[..., Sample]:
    """sample_of(record, number): what training would draw, small."""

    def make(record: Record, number: int = 0) -> Sample:
        return make_sample(record, np.random.default_rng(number), image_size=48, regions_per_image=2)

    return make


@pytest.fixture
def assert_same(sample_of) -> Callable[[Sequence[Record], Sequence[Record]], None]:
    """assert_same(there, original): the same keys, and the same samples under each, in whatever order."""

    def check(there: Sequence[Record], original: Sequence[Record]) -> None:
        by_key = {record.key: record for record in original}
        assert sorted(record.key for record in there) == sorted(by_key)
        for i, record in enumerate(there):
            for field in fields(Sample):
                a, b = (getattr(sample_of(each, i), field.name) for each in (record, by_key[record.key]))
                same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
                assert same, (record.key, field.name)

    return check


@pytest.fixture
def read_all(sample_of, assert_same) -> Callable[..., tuple[list[str], dict[int, DataError]]]:
    """read_all(there, original): makes every sample; keys of those that come, which must be the undamaged ones, and
    the others' errors."""

    def read(there: Sequence[Record], original: Sequence[Record]) -> tuple[list[str], dict[int, DataError]]:
        undamaged = {record.key: record for record in original}
        good: list[Record] = []
        errors: dict[int, DataError] = {}
        for i in range(len(there)):
            try:
                record = there[i]
                sample_of(record, i)
                good.append(record)
            except DataError as error:
                errors[i] = error
        assert_same(good, [undamaged[record.key] for record in good])
        return [record.key for record in good], errors

    return read


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """contents(folder): every file's bytes."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
