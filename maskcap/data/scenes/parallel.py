"""Draw many scenes in several processes.

Plain child processes instead of `multiprocessing`: its spawned children import the caller's `__main__` again, which
fails from a notebook or standard input and runs an unguarded script twice; forked ones may deadlock beside torch.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from maskcap.data.scenes.notes import Job, SceneNote, draw_and_note
from maskcap.errors import DataError

_CHUNK = 1000  # scenes a child process: seconds of work against a few tenths of start-up


def draw_all(jobs: Sequence[Job], workers: int) -> Iterator[SceneNote]:
    """Draw the scenes, `workers` processes at a time; notes come in the order of the jobs.

    Too few scenes to be worth a process, or `workers` under 2: drawn right here. Raises DataError when a child fails.
    """
    chunk = max(1, min(_CHUNK, -(-len(jobs) // max(workers, 1))))
    if workers < 2 or chunk < 100:
        yield from map(draw_and_note, jobs)
        return
    chunks = [jobs[start : start + chunk] for start in range(0, len(jobs), chunk)]
    pool = ThreadPoolExecutor(workers)
    try:
        for notes in pool.map(_draw_in_child, chunks):
            yield from notes
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw_in_child(jobs: Sequence[Job]) -> list[SceneNote]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "maskcap.data.scenes.parallel"]
    done = subprocess.run(command, input=pickle.dumps(jobs), capture_output=True, env=environment, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise DataError(f"drawing scenes into {jobs[0].folder} failed: {reason[-1]}")
    return pickle.loads(done.stdout)


def _child() -> None:
    jobs: Sequence[Job] = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps([draw_and_note(job) for job in jobs]))


if __name__ == "__main__":
    _child()
