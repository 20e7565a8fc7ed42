"""Shards written by several processes, in order; none outlives the one that started it."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from maskcap.data.shards.writer import ShardWriter, Written
from maskcap.errors import ShardError

_PR_SET_PDEATHSIG = 1


def write_all(writer: ShardWriter, numbers: Sequence[int], workers: int) -> Iterator[Written]:
    """What became of each shard, in order. Raises ShardError when a worker was killed."""
    if workers == 0 or len(numbers) < 2:
        yield from map(writer.write, numbers)
        return
    from torch.utils.data import DataLoader

    shards: Any = _Numbered(writer, numbers)
    loader = DataLoader(
        shards,
        batch_size=None,
        num_workers=min(workers, len(numbers)),
        prefetch_factor=1,
        worker_init_fn=functools.partial(_end_with_parent, writer.parent),
        multiprocessing_context="fork" if "fork" in multiprocessing.get_all_start_methods() else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ShardError(
            "a worker process was killed (out of memory?). Run the same command again, with fewer workers; finished "
            "shards are kept."
        ) from error


@dataclass(frozen=True)
class _Numbered:
    writer: ShardWriter
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Written:
        return self.writer.write(self.numbers[index])


def _end_with_parent(parent: int, worker: int) -> None:
    """In a worker: let the kernel end it with its parent.

    torch's own watchdog asks every few seconds, and never notices a parent that died before the worker had started.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)
