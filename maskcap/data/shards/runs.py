"""A video's frames that lie evenly in one file: one entry of a group's JSON for all of them; see records.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskcap.data.record import ImageRef


def runs_of(refs: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    """The frames in order, cut where the file, the size or the distance to the next frame changes; stills alone."""
    run: list[ImageRef] = []
    for ref in refs:
        if run and not _continues(run, ref):
            yield run
            run = []
        run.append(ref)
    if run:
        yield run


def write_run(run: Sequence[ImageRef], image: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a run of two frames or more. image: the first one's, as it is written alone."""
    step = _step(run[0], run[1])
    rest = {name: value for name, value in image.items() if name != "frame"}
    return rest | {"first": run[0].frame, "count": len(run)} | ({} if step == 1 else {"step": step})


def frames_of(entry: Mapping[str, Any]) -> range:
    """The numbers of a run's frames. Raises KeyError, TypeError, ValueError for an entry that is none."""
    first, step = entry["first"], entry.get("step", 1)
    return range(first, first + step * entry["count"], step)


def _continues(run: Sequence[ImageRef], ref: ImageRef) -> bool:
    """Whether the frame is of the same file as those of the run, one or more, and as far from the last as these are."""
    step = _step(run[-1], ref)
    alike = bool(step) and (len(run) == 1 or step == _step(run[-2], run[-1]))
    return alike and replace(ref, frame=run[-1].frame) == run[-1]


def _step(first: ImageRef, second: ImageRef) -> int:
    """How many frames the second is behind the first; 0: they are no frames, or the same."""
    return 0 if first.frame is None or second.frame is None else second.frame - first.frame
